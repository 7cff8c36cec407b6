-- Counts the calls of one caller by the generic cell rate algorithm.
--
-- KEYS[1]  the caller
-- ARGV[1]  microseconds between two calls, at least 1
-- ARGV[2]  calls that may come at once
-- ARGV[3]  calls that were made already: counted whether or not there is room for them
-- ARGV[4]  calls asked for
--
-- Returns how many of those asked for are granted, and when none is, the microseconds after which one would be.
-- Time is the node's own. Running it again counts again, which is to the caller's disadvantage and never to ours.

local interval = tonumber(ARGV[1])
local burst = tonumber(ARGV[2]) * interval
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local due = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0))
due = due + tonumber(ARGV[3]) * interval
local room = math.floor((now + burst - due) / interval)
local granted = math.max(0, math.min(tonumber(ARGV[4]), room))
due = due + granted * interval
redis.call('SET', KEYS[1], string.format('%.0f', due), 'PX', math.ceil((due - now) / 1000) + 1)
if granted > 0 then
  return {granted, 0}
end
return {0, math.max(0, math.ceil(due + interval - burst - now))}
