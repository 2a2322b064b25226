--! keys: counters names raised heads bodies requests deadlines journal meta
--! with: moment tally window index
-- Holds requests: for each all of its charges or none of them.
--
-- ARGV[1]   the moment, '' for the server's own
-- ARGV[2]   msgpack: for each hold {id, request_id, ttl_s, ttl_ns, counters, charges}; counters as in window.lua, each
--           once and with its largest amount; charges are the enforced ones, {index of the counter, limit}
-- ARGV[3..] the holds' bodies, charges and terms: equal bytes mean the same request
--
-- Answers {now, 'done', answer, ...}, each answer {'held' | 'full' | 'again', head, values, raises}: how every counter stood
-- before, from which the caller works out the rest. {now, 'used'}: an id is another request's. {now, 'clock'}: the moment is
-- outside the periods that came. {now, 'empty'}: the data that there was is gone. After the last three nothing has been done.

local now = moment(ARGV[1])
local now_us = tonumber(now:sub(1, 16))
local holds = cmsgpack.unpack(ARGV[2])

local heads = {}  -- by id, those that this call has looked for or written

local function fits(hold, found)
  for _, charge in ipairs(hold[6]) do
    local counter, account = hold[5][charge[1]], found[charge[1]]
    local taken = used(account.tally, oldest_live(counter, account.bucket))
    -- Never a sum of the two: it might not be exact.
    if counter[3] > in_force(charge[2], account.raised) - taken then
      return false
    end
  end
  return true
end

local function write(hold, body, found)
  local id = hold[1]
  local no = redis.call('HINCRBY', META, 'reservations', 1)
  local deadline = shifted(now, hold[3], hold[4])
  local head = {0, no, now, deadline, hold[2]}
  local entry = {now, 0, id}
  for index, counter in ipairs(hold[5]) do
    local account = found[index]
    local amount = charge(counter, account, counter[3], now)
    local at = 4 * index
    head[at + 2], head[at + 3], head[at + 4], head[at + 5] = account.id, account.bucket, amount, 0
    entry[at], entry[at + 1], entry[at + 2], entry[at + 3] = account.id, account.bucket, 0, amount
  end
  save(hold[5], found)
  heads[id] = cmsgpack.pack(head)
  redis.call('HSET', HEADS, id, heads[id])
  redis.call('HSET', BODIES, id, body)
  redis.call('ZADD', DEADLINES, 0, deadline_member(deadline, no, id))
  redis.call('RPUSH', JOURNAL, cmsgpack.pack(entry))
  if hold[2] ~= '' then
    redis.call('ZADD', REQUESTS, 0, request_prefix(hold[2]) .. id)
  end
end

-- Before anything is written: is there room for doubt in any of them.
if redis.call('HEXISTS', META, 'version') == 0 then
  return {now, 'empty'}
end
for index, hold in ipairs(holds) do
  local head = redis.call('HGET', HEADS, hold[1])
  if head and (cmsgpack.unpack(head)[1] ~= 0 or redis.call('HGET', BODIES, hold[1]) ~= ARGV[2 + index]) then
    return {now, 'used'}
  end
  heads[hold[1]] = head
  for _, counter in ipairs(hold[5]) do
    if not bucket_at(counter, now_us) then
      return {now, 'clock'}
    end
  end
end

local answer = {now, 'done'}
for index, hold in ipairs(holds) do
  local body = ARGV[2 + index]
  local head = heads[hold[1]]
  local found = accounts(hold[5], now_us)
  local values, raised = told_of(found)
  local status = head and 'again' or fits(hold, found) and 'held' or 'full'
  if status == 'held' then
    write(hold, body, found)
  end
  answer[#answer + 1] = {status, head or '', values, raised}
end
return answer
