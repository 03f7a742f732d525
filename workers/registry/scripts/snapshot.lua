-- All load reports, and all records unless they are at the known version.
-- Deletes workers without recent beats, and records that this router polls.
--
-- KEYS  meta w load hbz routers vm want
-- ARGV  version known ("epoch:seq"), collect after (ms), router process id or '', router lifetime (ms)
-- Reply {epoch, seq, collected, {id, load, …}, {id, envelope, …} or false, version of the virtual models,
--        {id, entry of what is asked of it, …}}

local meta, w, load, hbz, routers, vm, want = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local known, collect_after, router, router_ttl = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Later times are of a clock that was set back since: nothing would be collected until it is as late again.
local future = string.format('(%.0f', now)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', hbz, future, '+inf', 'LIMIT', 0, 100)) do
  redis.call('ZADD', hbz, string.format('%.0f', now), id)
end
redis.call('ZREMRANGEBYSCORE', routers, future, '+inf') -- living ones poll again

local dead = redis.call('ZRANGEBYSCORE', hbz, '-inf', string.format('(%.0f', now - collect_after), 'LIMIT', 0, 100)
if #dead > 0 then
  for _, id in ipairs(dead) do
    redis.call('HDEL', w, id)
    redis.call('HDEL', load, id)
    redis.call('ZREM', hbz, id)
  end
  redis.call('HINCRBY', meta, 'collected', #dead)
  redis.call('HINCRBY', meta, 'seq', 1)
end

if router ~= '' then
  redis.call('ZADD', routers, string.format('%.0f', now), router)
end
redis.call('ZREMRANGEBYSCORE', routers, '-inf', string.format('(%.0f', now - router_ttl))

local epoch = redis.call('HGET', meta, 'epoch') or ''
local seq = redis.call('HGET', meta, 'seq') or '0'
local records = false
if epoch .. ':' .. seq ~= known then
  records = redis.call('HGETALL', w)
end
return {
  epoch, seq, redis.call('HGET', meta, 'collected') or '0', redis.call('HGETALL', load), records,
  epoch .. ':' .. (redis.call('HGET', meta, 'models') or '0') .. ':' .. redis.call('HLEN', vm), redis.call('HGETALL', want),
}
