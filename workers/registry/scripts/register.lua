-- Write a worker's record. Refuse an older generation than the stored one.
--
-- KEYS  meta w load hbz
-- ARGV  channel, id, generation, envelope, load report, epoch to use if there is none
-- Reply {1, epoch, seq}, or {0, stored generation, number of its latest beat}

-- Compares decimals, because a Lua number cannot hold every generation exactly.
local function older(a, b)
  if #a ~= #b then
    return #a < #b
  end
  return a < b
end

local meta, w, load, hbz = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local channel, id, generation, envelope, report, fresh = unpack(ARGV)

local last = redis.call('HGET', load, id)
if last and redis.call('HEXISTS', w, id) == 1 then
  local held, number = string.match(last, '^(%d+):(%d+)')
  if held and older(generation, held) then
    return {0, held, number}
  end
end

redis.call('HSETNX', meta, 'epoch', fresh)
local epoch = redis.call('HGET', meta, 'epoch')
local seq = redis.call('HINCRBY', meta, 'seq', 1)
local time = redis.call('TIME')
redis.call('HSET', w, id, envelope)
redis.call('HSET', load, id, report)
redis.call('ZADD', hbz, string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), id)
redis.call('PUBLISH', channel, table.concat({'up', epoch, seq, id, report, envelope}, '\n'))
return {1, epoch, seq}
