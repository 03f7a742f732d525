-- All virtual models and their version.
--
-- KEYS  meta vm
-- Reply {version, {key, envelope, …}}

local meta, vm = KEYS[1], KEYS[2]
local epoch = redis.call('HGET', meta, 'epoch') or ''
local count = redis.call('HGET', meta, 'models') or '0'
return {epoch .. ':' .. count .. ':' .. redis.call('HLEN', vm), redis.call('HGETALL', vm)}
