-- A worker's heartbeat with its load.
--
-- KEYS  w load hbz want
-- ARGV  channel, id, generation, load report
-- Reply what is asked of the worker or '', or 0: not registered, or not in this generation; register again

local w, load, hbz, want = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local channel, id, generation, report = unpack(ARGV)

local last = redis.call('HGET', load, id)
if not last or string.match(last, '^%d+') ~= generation or redis.call('HEXISTS', w, id) == 0 then
  return 0
end

local time = redis.call('TIME')
redis.call('HSET', load, id, report)
redis.call('ZADD', hbz, string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), id)
redis.call('PUBLISH', channel, table.concat({'load', id, report}, '\n'))
return redis.call('HGET', want, id) or ''
