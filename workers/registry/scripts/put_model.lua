-- Put a virtual model (or its tombstone) in place of what the caller saw there, or drop its entry. Compared is the
-- whole entry: what is in it, and whether it may be believed, routers alone can tell.
--
-- KEYS  meta vm routers
-- ARGV  channel, key, expected envelope or '', new envelope or '' to drop it, whether routers are asked to tell
--       that they have seen it (1 or 0), epoch to use if there is none
-- Reply {1, version after it, how many router processes poll}, or {0, envelope held or ''}

local meta, vm, routers = KEYS[1], KEYS[2], KEYS[3]
local channel, key, expected, envelope, asked, fresh = unpack(ARGV)

local held = redis.call('HGET', vm, key) or ''
if held ~= expected then
  return {0, held}
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
redis.call('PUBLISH', channel, table.concat({'model', asked, before, after, key, envelope}, '\n'))
return {1, after, redis.call('ZCARD', routers)}
