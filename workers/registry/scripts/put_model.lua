-- Replace or drop a virtual model's entry if it equals what the caller expects. Only routers can read envelopes, so
-- entries are compared whole.
--
-- KEYS  meta vm routers
-- ARGV  channel, key, expected envelope or '', new envelope or '' to drop it, 1 if routers must
--       acknowledge else 0, epoch to use if there is none
-- Reply {1, version after it, number of polling routers}, or {0, stored envelope or ''}

local meta, vm, routers = KEYS[1], KEYS[2], KEYS[3]
local channel, key, expected, envelope, wants_ack, fresh = unpack(ARGV)

local stored = redis.call('HGET', vm, key) or ''
if stored ~= expected then
  return {0, stored}
end

redis.call('HSETNX', meta, 'epoch', fresh)
local epoch = redis.call('HGET', meta, 'epoch')
local before = epoch .. ':' .. (redis.call('HGET', meta, 'models') or '0') .. ':' .. redis.call('HLEN', vm)
if envelope == '' then
  redis.call('HDEL', vm, key)
else
  redis.call('HSET', vm, key, envelope)
end
local after = epoch .. ':' .. redis.call('HINCRBY', meta, 'models', 1) .. ':' .. redis.call('HLEN', vm)
redis.call('PUBLISH', channel, table.concat({'model', wants_ack, before, after, key, envelope}, '\n'))
return {1, after, redis.call('ZCARD', routers)}
