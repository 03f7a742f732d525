/* A vLLM server without a model, fast enough to measure routers.
 *
 *     fake_vllm PORT ADDRESSES
 *
 * Listens on PORT of 127.1.0.1 and the loopback addresses behind it (ADDRESSES of them, 250 per 127.1.x), one worker
 * each. A line on standard input, "TOKENS DELAY_US FIRST_US PER_WRITE", sets the answers of all requests that begin
 * later, and is answered by "ok" and the number of tokens sent so far. It ends with its
 * standard input.
 *
 * A streamed answer has TOKENS tokens: the first after FIRST_US, then PER_WRITE in one write every DELAY_US; without a
 * delay, as fast as the peer reads. A PER_WRITE of 0 writes the first token, and one token of the latest stream for each
 * datagram that comes to PORT: the load generator asks for the next one when it has the one before. "stream_interval" of
 * a request joins so many tokens in one event, and "return_token_ids" adds ids to the events, as in vLLM.
 * Each token is " @" and the monotonic time of its write in microseconds as 16 digits, so a client can tell how long it
 * was on the way. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
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

#define MAX_FD 65536
#define INPUT 16384
#define TIMERS (1 << 17)
#define STAMP 18 /* " @" and 16 digits */
#define MAX_INTERVAL 4096
#define PROMPT_TOKENS 57
#define MAX_ID 7 /* a token id and a comma */

typedef unsigned long long micros;

struct connection {
    char *input;
    int length, streaming, sent, interval, ids, generation;
    micros due;
    char *pending; /* what the socket did not take */
    int pending_length;
};

struct timer {
    int fd, generation;
    micros due;
};

/* Timers of one kind have equal delays, so a ring keeps them in order. */
struct ring {
    struct timer timers[TIMERS];
    unsigned head, tail;
};

enum { FIRST, NEXT };

static struct connection connections[MAX_FD];
static struct ring rings[2];
static int poller, steps, waiting = -1, tokens = 128, per_write = 1;
static micros delay, first, all_tokens;
static char event_head[512], event_tail[512], stream_end[2048], document[1 << 17];
static char models[2048], metrics[2048], health[256];
static char stream_heads[2][4096]; /* without and with the prompt's token ids */
static int stream_end_length;

#define COMMON \
    "\"id\":\"chatcmpl-b53bc3f7a3b34d4a9d14b1cc13a30b4c\",\"created\":1790000000," \
    "\"model\":\"meta-llama/Llama-3.1-8B-Instruct\","
#define CHUNK "data: {" COMMON "\"object\":\"chat.completion.chunk\","
#define HEAD "HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 17:00:00 GMT\r\nserver: uvicorn\r\n"

static micros now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000ULL + t.tv_nsec / 1000;
}

static int chunk(char *out, const char *text) { return sprintf(out, "%zx\r\n%s\r\n", strlen(text), text); }

static void answer(char *out, const char *type, const char *body) {
    sprintf(out, HEAD "content-length: %zu\r\ncontent-type: %s\r\n\r\n%s", strlen(body), type, body);
}

/* The parts of an answer that depend on the number of tokens. */
static void write_answers(void) {
    static char body[65536], usage[512];
    int n = sprintf(body, "{" COMMON "\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":"
                          "{\"role\":\"assistant\",\"reasoning_content\":null,\"content\":\"");
    for (int i = 0; i < tokens && n < 60000; i++) n += sprintf(body + n, " word");
    sprintf(body + n, "\",\"tool_calls\":[]},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}],"
                      "\"usage\":{\"prompt_tokens\":57,\"total_tokens\":%d,\"completion_tokens\":%d,"
                      "\"prompt_tokens_details\":null},\"prompt_logprobs\":null,\"kv_transfer_params\":null}",
            57 + tokens, tokens);
    answer(document, "application/json", body);
    n = chunk(stream_end, CHUNK "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"logprobs\":null,"
                                "\"finish_reason\":\"stop\",\"stop_reason\":null,\"token_ids\":null}]}\n\n");
    sprintf(usage, CHUNK "\"choices\":[],\"usage\":{\"prompt_tokens\":57,\"total_tokens\":%d,"
                         "\"completion_tokens\":%d}}\n\n", 57 + tokens, tokens);
    n += chunk(stream_end + n, usage);
    n += chunk(stream_end + n, "data: [DONE]\n\n");
    stream_end_length = n + sprintf(stream_end + n, "0\r\n\r\n");
}

/* Up to six digits, as in large vocabularies. */
static int token_id(int place) { return 17 + place * 7919 % 128000; }

static void write_constants(void) {
    char prompt[PROMPT_TOKENS * MAX_ID + 64];
    int n = sprintf(prompt, ",\"prompt_token_ids\":[");
    for (int i = 0; i < PROMPT_TOKENS; i++) n += sprintf(prompt + n, "%d,", token_id(i));
    sprintf(prompt + n - 1, "],\"prompt_text\":null");
    for (int ids = 0; ids < 2; ids++) {
        char event[1024];
        sprintf(event, CHUNK "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                             "\"logprobs\":null,\"finish_reason\":null}]%s}\n\n", ids ? prompt : "");
        n = sprintf(stream_heads[ids], HEAD "content-type: text/event-stream; charset=utf-8\r\n"
                                            "transfer-encoding: chunked\r\n\r\n");
        chunk(stream_heads[ids] + n, event);
    }
    strcpy(event_head, CHUNK "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"");
    strcpy(event_tail, "\"},\"logprobs\":null,\"finish_reason\":null,\"token_ids\":");
    answer(models, "application/json",
           "{\"object\":\"list\",\"data\":[{\"id\":\"meta-llama/Llama-3.1-8B-Instruct\",\"object\":\"model\","
           "\"created\":1790000000,\"owned_by\":\"vllm\",\"root\":\"meta-llama/Llama-3.1-8B-Instruct\","
           "\"parent\":null,\"max_model_len\":8192,\"permission\":[]}]}");
    answer(metrics, "text/plain; version=0.0.4; charset=utf-8",
           "# TYPE vllm:num_requests_running gauge\n"
           "vllm:num_requests_running{model_name=\"meta-llama/Llama-3.1-8B-Instruct\"} 1.0\n"
           "# TYPE vllm:num_requests_waiting gauge\n"
           "vllm:num_requests_waiting{model_name=\"meta-llama/Llama-3.1-8B-Instruct\"} 0.0\n");
    answer(health, "text/plain", "");
}

/* `id`: of the first token; -1 for an event without ids. */
static int write_event(char *out, int count, int id) {
    static char ids[MAX_INTERVAL * MAX_ID + 16];
    int n = sprintf(ids, id < 0 ? "null" : "[");
    for (int i = 0; id >= 0 && i < count; i++) n += sprintf(ids + n, "%d%c", token_id(id + i), i + 1 < count ? ',' : ']');
    n += sprintf(ids + n, "}]}\n\n");
    int length = strlen(event_head) + count * STAMP + strlen(event_tail) + n;
    n = sprintf(out, "%x\r\n%s", length, event_head);
    micros stamp = now();
    for (int i = 0; i < count; i++) n += sprintf(out + n, " @%016llu", stamp);
    return n + sprintf(out + n, "%s%s\r\n", event_tail, ids);
}

static void watch(int fd, int writable) {
    struct epoll_event event = {.events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
}

static void schedule(int kind, int fd) {
    struct ring *ring = &rings[kind];
    ring->timers[ring->tail++ & (TIMERS - 1)] = (struct timer){fd, connections[fd].generation, connections[fd].due};
}

static void send_all(int fd, const char *data, int length) {
    struct connection *c = &connections[fd];
    int sent = 0;
    if (!c->pending_length) {
        sent = write(fd, data, length);
        if (sent < 0) sent = 0; /* EAGAIN, or an error that the next read reports */
    }
    if (sent == length) return;
    c->pending = realloc(c->pending, c->pending_length + length - sent);
    memcpy(c->pending + c->pending_length, data + sent, length - sent);
    c->pending_length += length - sent;
    watch(fd, 1);
}

static void read_requests(int fd);

/* Write tokens until the next one is due, the socket is full or the answer is complete. */
static void stream(int fd, int begin) {
    static char out[1 << 20];
    struct connection *c = &connections[fd];
    while (!c->pending_length) {
        int n = 0;
        if (begin) n = sprintf(out, "%s", stream_heads[c->ids]);
        int events = (begin && delay) || !per_write ? 1 : per_write;
        for (int i = 0; i < events && c->sent < tokens; i++) {
            int count = c->sent ? c->interval : 1, left = tokens - c->sent;
            if (count > left) count = left;
            n += write_event(out + n, count, c->ids ? c->sent : -1);
            c->sent += count;
            all_tokens += count;
        }
        begin = 0;
        if (c->sent >= tokens) {
            memcpy(out + n, stream_end, stream_end_length);
            c->streaming = 0;
            send_all(fd, out, n + stream_end_length);
            read_requests(fd);
            return;
        }
        send_all(fd, out, n);
        if (!per_write) {
            waiting = fd;
            return;
        }
        if (delay) {
            micros time = now();
            c->due += delay * (c->interval > 1 ? c->interval : 1);
            if (c->due < time) c->due = time;
            schedule(NEXT, fd);
            return;
        }
    }
}

static int number_after(const char *text, const char *name, int otherwise) {
    const char *found = strstr(text, name);
    return found ? atoi(found + strlen(name)) : otherwise;
}

static void begin_stream(int fd, const char *body) {
    struct connection *c = &connections[fd];
    c->streaming = 1;
    c->sent = 0;
    c->interval = number_after(body, "\"stream_interval\":", 1);
    if (c->interval < 1) c->interval = 1;
    if (c->interval > MAX_INTERVAL) c->interval = MAX_INTERVAL;
    c->ids = strstr(body, "\"return_token_ids\":true") != NULL;
    c->due = now() + first;
    if (first) schedule(FIRST, fd);
    else stream(fd, 1);
}

static void serve(int fd, const char *head, const char *body) {
    if (head[0] == 'P') {
        if (strstr(body, "\"stream\":true") || strstr(body, "\"stream\": true")) begin_stream(fd, body);
        else send_all(fd, document, strlen(document));
        return;
    }
    const char *reply = health;
    if (!strncmp(head, "GET /v1/models", 14)) reply = models;
    if (!strncmp(head, "GET /metrics", 12)) reply = metrics;
    send_all(fd, reply, strlen(reply));
}

/* Return the length of the body, or -1 if it is incomplete. */
static int body_length(char *head, char *body, int available) {
    char *field = strcasestr(head, "\ncontent-length:");
    if (strcasestr(head, "\ntransfer-encoding:")) {
        char *end = strstr(body, "0\r\n\r\n");
        return end ? (int)(end + 5 - body) : -1;
    }
    int length = field ? atoi(field + 16) : 0;
    return length <= available ? length : -1;
}

static void read_requests(int fd) {
    struct connection *c = &connections[fd];
    static char request[INPUT];
    while (!c->streaming && c->length > 0) {
        c->input[c->length] = 0;
        char *end = strstr(c->input, "\r\n\r\n");
        if (!end) return;
        *end = 0;
        int body = end + 4 - c->input, length = body_length(c->input, c->input + body, c->length - body);
        if (length < 0) {
            *end = '\r';
            return;
        }
        memcpy(request, c->input, body + length);
        request[body + length] = 0;
        c->length -= body + length;
        memmove(c->input, c->input + body + length, c->length);
        serve(fd, request, request + body);
    }
}

static void close_connection(int fd) {
    struct connection *c = &connections[fd];
    int generation = c->generation + 1;
    close(fd);
    free(c->input);
    free(c->pending);
    memset(c, 0, sizeof *c);
    c->generation = generation;
}

static void accept_all(int listening) {
    int one = 1, fd;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connections[fd].input = malloc(INPUT);
        connections[fd].length = 0;
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

static void flush(int fd) {
    struct connection *c = &connections[fd];
    int sent = write(fd, c->pending, c->pending_length);
    if (sent <= 0) return;
    c->pending_length -= sent;
    memmove(c->pending, c->pending + sent, c->pending_length);
    if (c->pending_length) return;
    watch(fd, 0);
    if (c->streaming && !delay) stream(fd, 0);
}

static void receive(int fd) {
    struct connection *c = &connections[fd];
    int n = read(fd, c->input + c->length, INPUT - 1 - c->length);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) close_connection(fd);
        return;
    }
    c->length += n;
    read_requests(fd);
}

static void configure(void) {
    char line[256];
    int n = read(0, line, sizeof line - 1);
    if (n <= 0) exit(0);
    line[n] = 0;
    if (sscanf(line, "%d %llu %llu %d", &tokens, &delay, &first, &per_write) != 4) exit(1);
    write_answers();
    printf("ok %llu\n", all_tokens);
    fflush(stdout);
}

/* Run what is due, and return the microseconds until the next timer, or -1. */
static long run_timers(void) {
    long wait = -1;
    for (int kind = FIRST; kind <= NEXT; kind++) {
        struct ring *ring = &rings[kind];
        while (ring->head != ring->tail) {
            struct timer *timer = &ring->timers[ring->head & (TIMERS - 1)];
            micros time = now();
            if (timer->due > time) {
                long left = timer->due - time;
                if (wait < 0 || left < wait) wait = left;
                break;
            }
            ring->head++;
            struct connection *c = &connections[timer->fd];
            if (c->generation == timer->generation && c->streaming) stream(timer->fd, kind == FIRST);
        }
    }
    return wait;
}

static void step(void) {
    char datagram[16];
    while (read(steps, datagram, sizeof datagram) > 0)
        if (waiting >= 0 && connections[waiting].streaming) stream(waiting, 0);
}

static int listen_on(int port, int index, int kind) {
    int fd = socket(AF_INET, kind | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(0x7f010000 + ((index / 250) << 8) + index % 250 + 1);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&address, sizeof address) || (kind == SOCK_STREAM && listen(fd, 4096))) {
        perror("fake_vllm: cannot listen; choose another port");
        exit(1);
    }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    return fd;
}

int main(int count, char **arguments) {
    static struct epoll_event events[1024];
    static char listening[MAX_FD];
    if (count != 3) {
        fputs("usage: fake_vllm PORT ADDRESSES\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1);
    poller = epoll_create1(0);
    write_constants();
    write_answers();
    for (int i = 0; i < atoi(arguments[2]); i++) listening[listen_on(atoi(arguments[1]), i, SOCK_STREAM)] = 1;
    steps = listen_on(atoi(arguments[1]), 0, SOCK_DGRAM);
    struct epoll_event input = {.events = EPOLLIN, .data.fd = 0};
    epoll_ctl(poller, EPOLL_CTL_ADD, 0, &input);
    for (;;) {
        long wait = run_timers();
        struct timespec timeout = {wait / 1000000, wait % 1000000 * 1000};
        int ready = epoll_pwait2(poller, events, 1024, wait < 0 ? NULL : &timeout, NULL);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == 0) configure();
            else if (fd == steps) step();
            else if (listening[fd]) accept_all(fd);
            else {
                if (events[i].events & EPOLLOUT && connections[fd].pending_length) flush(fd);
                if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(fd);
            }
        }
    }
}
