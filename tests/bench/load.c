/* A load generator for HTTP/1.1: so many connections, each with one request at a time, on kept-alive connections.
 *
 *     load ADDRESS PORT PATH BODY_FILE CONNECTIONS REQUESTS SPREAD_US LIMIT_S AUTHORIZATION STEP_PORT
 *
 * The first requests begin evenly over SPREAD_US. Connections come from several loopback addresses, 5,000 from each, so
 * that their ports suffice. With a STEP_PORT, it asks the fake vLLM for the next token by a datagram when a token has
 * arrived; 0 is for none. It prints one JSON object: times in microseconds, from the write of a request to the first
 * byte of its body (first), from a token's stamp to its arrival (token), from one token's arrival to the next one's
 * (gap), and to the end of the body (request). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD 4096
#define MAX_TIMES 8000000
#define PORTS_PER_ADDRESS 5000

typedef unsigned long long micros;

enum state { HEADERS, SIZED, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, UNTIL_CLOSE };

struct connection {
    int fd, active, status, closing, begun, in_stamp, digits, head_length;
    enum state state;
    long remaining;
    micros started, stamp, arrived;
    char head[HEAD];
};

struct times {
    unsigned *values;
    long count;
};

static struct connection *connections;
static int stepper = -1, count, requests, started, done, errors, refused, poller, request_length, port;
static char *request, *address;
static struct times first, token, gap, whole;
static micros chunks;

static micros now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000ULL + t.tv_nsec / 1000;
}

static void record(struct times *times, micros value) {
    if (times->count < MAX_TIMES) times->values[times->count++] = value;
}

static void open_connection(int i) {
    struct sockaddr_in source = {.sin_family = AF_INET}, target = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + i / PORTS_PER_ADDRESS);
    target.sin_addr.s_addr = inet_addr(address);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(fd, (void *)&source, sizeof source) || connect(fd, (void *)&target, sizeof target)) {
        perror("load: cannot connect");
        exit(2);
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    connections[i].fd = fd;
}

static void start(int i) {
    struct connection *c = &connections[i];
    c->active = 0;
    if (started >= requests) return;
    started++;
    c->active = 1;
    c->state = HEADERS;
    c->head_length = c->begun = c->status = c->closing = c->in_stamp = 0;
    c->arrived = 0;
    c->started = now();
    if (write(c->fd, request, request_length) != request_length) perror("load: write");
}

static void finish(int i, micros time) {
    struct connection *c = &connections[i];
    if (c->status != 200) refused++;
    record(&whole, time - c->started);
    done++;
    if (c->closing) {
        close(c->fd);
        open_connection(i);
    }
    start(i);
}

static void read_body(struct connection *c, const char *data, long length, micros time) {
    if (length && !c->begun) {
        c->begun = 1;
        record(&first, time - c->started);
    }
    for (long i = 0; i < length; i++) {
        if (data[i] == '@') {
            c->in_stamp = 1;
            c->digits = c->stamp = 0;
        } else if (c->in_stamp && data[i] >= '0' && data[i] <= '9') {
            c->stamp = c->stamp * 10 + data[i] - '0';
            if (++c->digits == 16) {
                c->in_stamp = 0;
                record(&token, time > c->stamp ? time - c->stamp : 0);
                if (c->arrived) record(&gap, time - c->arrived);
                c->arrived = time;
                if (stepper >= 0 && write(stepper, "", 1) != 1) perror("load: cannot ask for a token");
            }
        } else {
            c->in_stamp = 0;
        }
    }
}

/* Read a part of the head, and return how many bytes belong to it. */
static long read_head(int i, const char *data, long length, micros time) {
    struct connection *c = &connections[i];
    int before = c->head_length;
    char *end, *field;
    if (length > HEAD - 1 - before) length = HEAD - 1 - before;
    memcpy(c->head + before, data, length);
    c->head_length += length;
    c->head[c->head_length] = 0;
    if (!(end = strstr(c->head, "\r\n\r\n"))) {
        if (c->head_length == HEAD - 1) {
            fputs("load: the head of a response is too long\n", stderr);
            exit(2);
        }
        return length;
    }
    end[2] = 0;
    c->status = atoi(c->head + 9);
    c->closing = strcasestr(c->head, "\nconnection: close") != NULL;
    c->head_length = 0;
    if ((field = strcasestr(c->head, "\ncontent-length:"))) {
        c->remaining = atol(field + 16);
        c->state = SIZED;
    } else if (strcasestr(c->head, "\ntransfer-encoding: chunked")) c->state = CHUNK_SIZE;
    else c->state = UNTIL_CLOSE;
    long used = end + 4 - c->head - before;
    if (c->state == SIZED && !c->remaining) finish(i, time);
    return used;
}

static void read_line(int i, char byte, micros time) {
    struct connection *c = &connections[i];
    if (byte != '\n') {
        if (byte != '\r' && c->head_length < 30) c->head[c->head_length++] = byte;
        return;
    }
    int empty = c->head_length == 0;
    c->head[c->head_length] = 0;
    c->head_length = 0;
    if (c->state == CHUNK_SIZE) {
        chunks++;
        c->remaining = strtol(c->head, NULL, 16);
        c->state = c->remaining ? CHUNK_DATA : TRAILER;
    } else if (c->state == CHUNK_END) c->state = CHUNK_SIZE;
    else if (empty) finish(i, time);
}

static void read_response(int i, const char *data, long length, micros time) {
    struct connection *c = &connections[i];
    while (length > 0 && c->active) {
        long used = 1;
        if (c->state == HEADERS) used = read_head(i, data, length, time);
        else if (c->state == SIZED || c->state == CHUNK_DATA) {
            used = length < c->remaining ? length : c->remaining;
            read_body(c, data, used, time);
            c->remaining -= used;
            if (!c->remaining) {
                if (c->state == CHUNK_DATA) c->state = CHUNK_END;
                else finish(i, time);
            }
        } else if (c->state == UNTIL_CLOSE) read_body(c, data, used = length, time);
        else read_line(i, *data, time);
        data += used;
        length -= used;
    }
}

static void receive(int i) {
    static char data[1 << 18];
    struct connection *c = &connections[i];
    long length = read(c->fd, data, sizeof data);
    micros time = now();
    if (length > 0) {
        read_response(i, data, length, time);
        return;
    }
    if (c->active && c->state == UNTIL_CLOSE) {
        c->closing = 1;
        finish(i, time);
        return;
    }
    if (c->active) errors++;
    close(c->fd);
    open_connection(i);
    if (c->active) start(i);
}

static int ascending(const void *a, const void *b) {
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *name, struct times *times) {
    qsort(times->values, times->count, sizeof(unsigned), ascending);
    unsigned half = times->count ? times->values[(times->count - 1) / 2] : 0;
    unsigned most = times->count ? times->values[(long)(0.99 * (times->count - 1))] : 0;
    printf(",\"%s_p50\":%u,\"%s_p99\":%u", name, half, name, most);
}

/* The fake vLLM listens on its first address. */
static void connect_stepper(int step_port) {
    struct sockaddr_in target = {.sin_family = AF_INET, .sin_port = htons(step_port)};
    if (!step_port) return;
    target.sin_addr.s_addr = inet_addr("127.1.0.1");
    stepper = socket(AF_INET, SOCK_DGRAM, 0);
    if (connect(stepper, (void *)&target, sizeof target)) perror("load: cannot ask for tokens");
}

static void read_request(char **arguments) {
    static char body[1 << 20];
    FILE *file = fopen(arguments[4], "r");
    if (!file) {
        perror("load: cannot read the body");
        exit(2);
    }
    int length = fread(body, 1, sizeof body, file);
    request = malloc(length + 4096);
    request_length = sprintf(request, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: load\r\nAccept: */*\r\n"
                                      "Authorization: %s\r\nContent-Type: application/json\r\n"
                                      "Content-Length: %d\r\n\r\n", arguments[3], port, arguments[9], length);
    memcpy(request + request_length, body, length);
    request_length += length;
}

int main(int arguments_count, char **arguments) {
    static struct epoll_event events[1024];
    if (arguments_count != 11) {
        fputs("usage: load ADDRESS PORT PATH BODY_FILE CONNECTIONS REQUESTS SPREAD_US LIMIT_S AUTHORIZATION STEP_PORT\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1);
    address = arguments[1];
    port = atoi(arguments[2]);
    count = atoi(arguments[5]);
    requests = atoi(arguments[6]);
    micros spread = atoll(arguments[7]), limit = atoll(arguments[8]) * 1000000;
    read_request(arguments);
    connect_stepper(atoi(arguments[10]));
    connections = calloc(count, sizeof *connections);
    first.values = malloc(MAX_TIMES * sizeof(unsigned));
    token.values = malloc(MAX_TIMES * sizeof(unsigned));
    gap.values = malloc(MAX_TIMES * sizeof(unsigned));
    whole.values = malloc(MAX_TIMES * sizeof(unsigned));
    poller = epoll_create1(0);
    for (int i = 0; i < count; i++) open_connection(i);
    micros begin = now();
    for (int next = 0; done + errors < requests;) {
        micros elapsed = now() - begin;
        if (elapsed > limit) {
            fputs("load: the time limit ended it\n", stderr);
            break;
        }
        for (; next < count && now() - begin >= spread * next / count; next++) start(next);
        struct timespec timeout = {0, next < count ? 50000 : 100000000};
        int ready = epoll_pwait2(poller, events, 1024, &timeout, NULL);
        for (int i = 0; i < ready; i++) receive(events[i].data.u32);
    }
    printf("{\"seconds\":%.6f,\"done\":%d,\"errors\":%d,\"refused\":%d,\"tokens\":%ld,\"chunks\":%llu",
           (now() - begin) / 1e6, done, errors, refused, token.count, chunks);
    print_times("first", &first);
    print_times("token", &token);
    print_times("gap", &gap);
    print_times("request", &whole);
    puts("}");
}
