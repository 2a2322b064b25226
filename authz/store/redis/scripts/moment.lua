-- Time. A moment is text: nanoseconds since the Unix epoch in 19 digits. As a number it would be rounded, for a double is exact
-- only up to 2^53; as text of one length it is in the order of time. Buckets are reckoned in microseconds, which are exact.

-- The server's own time; a test may give one instead.
local function moment(given)
  if given ~= '' then
    return given
  end
  local time = redis.call('TIME')
  return string.format('%010d%06d000', time[1], time[2])
end

-- A moment `seconds` and `ns` later, or earlier where both are negative.
local function shifted(from, seconds, ns)
  seconds = tonumber(from:sub(1, 10)) + seconds
  ns = tonumber(from:sub(11)) + ns
  if ns >= 1e9 then
    seconds, ns = seconds + 1, ns - 1e9
  elseif ns < 0 then
    seconds, ns = seconds - 1, ns + 1e9
  end
  if seconds < 0 then
    seconds, ns = 0, 0
  elseif seconds > 9999999999 then
    seconds, ns = 9999999999, 999999999
  end
  return string.format('%010d%09d', seconds, ns)
end
