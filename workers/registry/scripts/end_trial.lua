-- End a trial, if it is still the owner's.
--
-- KEYS  trials
-- ARGV  worker id, owner
-- Reply 1 if it was

local trials = KEYS[1]
local id, owner = ARGV[1], ARGV[2]

local held = redis.call('HGET', trials, id)
if held and string.match(held, '^(.*):%d+$') == owner then
  return redis.call('HDEL', trials, id)
end
return 0
