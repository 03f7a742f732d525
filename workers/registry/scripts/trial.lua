-- Begin a trial on a worker, unless another one is in progress.
--
-- KEYS  trials
-- ARGV  worker id, owner, longest duration (ms)
-- Reply 1, or 0: another trial is in progress

local trials = KEYS[1]
local id, owner, duration = ARGV[1], ARGV[2], tonumber(ARGV[3])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local held = redis.call('HGET', trials, id)
if held then
  local ends = tonumber(string.match(held, ':(%d+)$'))
  if ends and ends > now and ends <= now + duration then -- a later end is of a clock that was set back since
    return 0
  end
end
redis.call('HSET', trials, id, owner .. ':' .. string.format('%.0f', now + duration))
return 1
