--! keys: alerts claims meta
--! with: moment
-- Hands out alerts that a target has to be told of, the oldest first, to one caller at a time.
--
-- What a target has been told of is msgpack: {low, no, next, attempts, no, next, attempts, ...}. Alerts are numbered without gaps:
-- all up to `low` are done; of the others, attempts of 0 mean done, and next is when it may be offered again.
--
-- ARGV  the moment; the target; the lease in seconds and nanoseconds; how many at most; how long an alert is offered, likewise
-- Answers no, row, attempts, no, row, attempts, ...

local now = moment(ARGV[1])
local until_ = shifted(now, ARGV[3], ARGV[4])
local since = shifted(now, -ARGV[6], -ARGV[7])
local state, low, answer, given = {}, 0, {}, 0
local packed = redis.call('HGET', CLAIMS, ARGV[2])
if packed then
  local kept = cmsgpack.unpack(packed)
  low = kept[1]
  for at = 2, #kept, 3 do
    state[kept[at]] = {kept[at + 1], kept[at + 2]}
  end
end
local last = tonumber(redis.call('HGET', META, 'alerts') or 0)
low = math.max(low, tonumber(redis.call('HGET', META, 'alerts_gone') or 0))
for no = low + 1, last do
  local mine = state[no] or {'', 0}
  local done = state[no] and mine[2] == 0
  if done and no == low + 1 then
    low, state[no] = no, nil
  elseif not done and mine[1] <= now and given < tonumber(ARGV[5]) then
    local row = redis.call('HGET', ALERTS, no)
    if row and cmsgpack.unpack(row).at_ns >= since then
      given = given + 1
      state[no] = {until_, mine[2] + 1}
      local size = #answer
      answer[size + 1], answer[size + 2], answer[size + 3] = no, row, state[no][2]
    end
  end
end
if given > 0 then
  local kept = {low}
  for no = low + 1, last do
    if state[no] then
      local size = #kept
      kept[size + 1], kept[size + 2], kept[size + 3] = no, state[no][1], state[no][2]
    end
  end
  redis.call('HSET', CLAIMS, ARGV[2], cmsgpack.pack(kept))
end
return answer
