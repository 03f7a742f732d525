-- Remove a worker, unless a newer generation of it is registered.
--
-- KEYS  meta w load hbz
-- ARGV  channel, id, generation
-- Reply 1, or 0: not registered in this generation

local meta, w, load, hbz = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local channel, id, generation = unpack(ARGV)

local last = redis.call('HGET', load, id)
if not last or string.match(last, '^%d+') ~= generation then
  return 0
end

redis.call('HDEL', w, id)
redis.call('HDEL', load, id)
redis.call('ZREM', hbz, id)
local epoch = redis.call('HGET', meta, 'epoch') or ''
local seq = redis.call('HINCRBY', meta, 'seq', 1)
redis.call('PUBLISH', channel, table.concat({'down', epoch, seq, id, generation}, '\n'))
return 1
