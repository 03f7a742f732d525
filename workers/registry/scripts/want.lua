-- Write what is asked of a worker, unless the stored entry has the same or a higher revision.
--
-- KEYS  want
-- ARGV  channel, id, entry ("revision\nenvelope")
-- Reply '' if it was written, else the stored entry

-- Compares decimals, because a Lua number cannot hold every revision exactly.
local function newer(a, b)
  if #a ~= #b then
    return #a > #b
  end
  return a > b
end

local want = KEYS[1]
local channel, id, entry = unpack(ARGV)

local stored = redis.call('HGET', want, id)
if stored then
  local held = string.match(stored, '^%d+')
  if held and not newer(string.match(entry, '^%d+'), held) then
    return stored
  end
end
redis.call('HSET', want, id, entry)
redis.call('PUBLISH', channel, table.concat({'want', id, entry}, '\n'))
return ''
