--! keys: counters names raised heads bodies requests deadlines journal meta
--! with: moment tally window index
-- Holds requests: for each all of its charges or none of them. Each counter is read once and written once, however many of the
-- holds charge it, and what is written is written at the end, each kind of row by one command.
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
local holds = cmsgpack.unpack(ARGV[2])

local counters, known = {}, {}  -- each counter once; how it stands, by name
local heads = {}  -- by id, those that there are
local last_no  -- the number of the newest reservation
local head_rows, body_rows, deadline_rows, request_rows, journal_rows = {}, {}, {}, {}, {}

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

local function add(rows, first, second)
  rows[#rows + 1], rows[#rows + 2] = first, second
end

local function write(hold, body, found)
  local id = hold[1]
  last_no = (last_no or redis.call('HINCRBY', META, 'reservations', #holds) - #holds) + 1
  local deadline = shifted(now, hold[3], hold[4])
  local head = {0, last_no, now, deadline, hold[2]}
  local entry = {now, 0, id}
  for index, counter in ipairs(hold[5]) do
    local account = found[index]
    local amount = charge(counter, account, counter[3], now)
    local at = 4 * index
    head[at + 2], head[at + 3], head[at + 4], head[at + 5] = account.id, account.bucket, amount, 0
    entry[at], entry[at + 1], entry[at + 2], entry[at + 3] = account.id, account.bucket, 0, amount
  end
  heads[id] = cmsgpack.pack(head)
  add(head_rows, id, heads[id])
  add(body_rows, id, body)
  add(deadline_rows, 0, deadline_member(deadline, last_no, id))
  journal_rows[#journal_rows + 1] = cmsgpack.pack(entry)
  if hold[2] ~= '' then
    add(request_rows, 0, request_prefix(hold[2]) .. id)
  end
end

-- Before anything is written: is there room for doubt in any of them.
if redis.call('HEXISTS', META, 'version') == 0 then
  return {now, 'empty'}
end
local ids = {}
for index, hold in ipairs(holds) do
  ids[index] = hold[1]
  for _, counter in ipairs(hold[5]) do
    if not known[counter[1]] then
      known[counter[1]] = true
      counters[#counters + 1] = counter
    end
  end
end
for index, head in ipairs(#ids > 0 and redis.call('HMGET', HEADS, unpack(ids)) or {}) do
  if head then
    if cmsgpack.unpack(head)[1] ~= 0 or redis.call('HGET', BODIES, ids[index]) ~= ARGV[2 + index] then
      return {now, 'used'}
    end
    heads[ids[index]] = head
  end
end
local standing = accounts(counters, tonumber(now:sub(1, 16)))
if not standing then
  return {now, 'clock'}
end
for index, counter in ipairs(counters) do
  known[counter[1]] = standing[index]
end

local answer = {now, 'done'}
for index, hold in ipairs(holds) do
  local head, found = heads[hold[1]], {}
  for at, counter in ipairs(hold[5]) do
    found[at] = known[counter[1]]
  end
  local values, raised = told_of(found)
  local status = head and 'again' or fits(hold, found) and 'held' or 'full'
  if status == 'held' then
    write(hold, ARGV[2 + index], found)
  end
  answer[#answer + 1] = {status, head or '', values, raised}
end

if last_no then
  save(counters, standing)
  redis.call('HSET', HEADS, unpack(head_rows))
  redis.call('HSET', BODIES, unpack(body_rows))
  redis.call('ZADD', DEADLINES, unpack(deadline_rows))
  redis.call('RPUSH', JOURNAL, unpack(journal_rows))
  if #request_rows > 0 then
    redis.call('ZADD', REQUESTS, unpack(request_rows))
  end
end
return answer
