--! keys: counters names raised heads bodies requests deadlines journal meta
--! with: moment tally window index
-- Holds requests: for each all of its charges or none of them. Each counter is read once and written once, however many of the
-- holds charge it, and what is written is written at the end, each kind of row by one command.
--
-- ARGV[1]   the moment, '' for the server's own
-- ARGV[2]   msgpack {counters, holds}: each counter once, as in window.lua; for each hold {id, request_id, ttl_s, ttl_ns, charges,
--           enforced}; charges are {index of the counter, amount, ...}, each counter of the hold once and with its largest amount;
--           enforced are {index of the counter, amount, limit, ...}
-- ARGV[3..] the holds' bodies, charges and terms: equal bytes mean the same request
--
-- Answers {now, 'done', values, raises, status, head, ...}: how every counter stood before, and for each hold in order 'held', 'full'
-- or, with its head, 'again'; from which the caller works out the rest. {now, 'used'}: an id is another request's. {now,
-- 'clock'}: the moment is outside the periods that came. {now, 'empty'}: the data that there was is gone. After the last three
-- nothing has been done.

local now = moment(ARGV[1])
local counters, holds = unpack(cmsgpack.unpack(ARGV[2]))

local found  -- each counter as it stands
local heads = {}  -- by id, those that there are
local last_no  -- the number of the newest reservation
local head_rows, body_rows, deadline_rows, request_rows, journal_rows = {}, {}, {}, {}, {}

local function fits(enforced)
  for at = 1, #enforced, 3 do
    local account = found[enforced[at]]
    -- Never a sum of the two: it might not be exact.
    if enforced[at + 1] > in_force(enforced[at + 2], account.raised) - account.used - account.added then
      return false
    end
  end
  return true
end

local function add(rows, first, second)
  rows[#rows + 1], rows[#rows + 2] = first, second
end

local function write(hold, body)
  local id, charges = hold[1], hold[5]
  last_no = (last_no or redis.call('HINCRBY', META, 'reservations', #holds) - #holds) + 1
  local deadline = shifted(now, hold[3], hold[4])
  local head = {0, last_no, now, deadline, hold[2]}
  local entry = {now, 0, id}
  for from = 1, #charges, 2 do
    local account = found[charges[from]]
    local amount = charge(counters[charges[from]], account, charges[from + 1])
    local at = 2 * from + 2
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
end
for index, head in ipairs(#ids > 0 and redis.call('HMGET', HEADS, unpack(ids)) or {}) do
  if head then
    if cmsgpack.unpack(head)[1] ~= 0 or redis.call('HGET', BODIES, ids[index]) ~= ARGV[2 + index] then
      return {now, 'used'}
    end
    heads[ids[index]] = head
  end
end
found = accounts(counters, tonumber(now:sub(1, 16)))
if not found then
  return {now, 'clock'}
end
for index, account in ipairs(found) do
  account.used = used(account.tally, oldest_live(counters[index], account.bucket))
end

local answer = {now, 'done', told_of(found)}
for index, hold in ipairs(holds) do
  local head = heads[hold[1]]
  if head then
    add(answer, 'again', head)
  elseif fits(hold[6]) then
    write(hold, ARGV[2 + index])
    add(answer, 'held', '')
  else
    add(answer, 'full', '')
  end
end

if last_no then
  save(counters, found, now)
  redis.call('HSET', HEADS, unpack(head_rows))
  redis.call('HSET', BODIES, unpack(body_rows))
  redis.call('ZADD', DEADLINES, unpack(deadline_rows))
  redis.call('RPUSH', JOURNAL, unpack(journal_rows))
  if #request_rows > 0 then
    redis.call('ZADD', REQUESTS, unpack(request_rows))
  end
end
return answer
