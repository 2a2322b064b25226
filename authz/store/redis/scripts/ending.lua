-- How a reservation ends. The table is authz.quota.ledger.TRANSITIONS; everything that is not in it changes nothing.

local PENDING, SETTLED, VOIDED, EXPIRED, CORRECTED = 0, 1, 2, 3, 4
local TRANSITIONS = {
  [PENDING] = {settle = SETTLED, void = VOIDED, expire = EXPIRED},
  [EXPIRED] = {settle = CORRECTED, void = CORRECTED},
}

-- A body is {charges, terms}, whose fields stand in the order of authz.quota.ledger.Charge and Terms; so do those of a window.
local QUOTA, SCOPE, COUNTER, WINDOW, METER, LIMIT, ALERTS_AT = 1, 2, 3, 4, 5, 7, 9
local DAY, ORGANISATION, TEAM, USER, KEY, MODEL, AT_MOST = 1, 2, 3, 4, 5, 6, 9
local KIND = 1

-- What a counter must hold as posted afterwards.
local function owed(event, charge, reserved, terms, actual)
  if event == 'void' or charge[WINDOW][KIND] == 'gauge' then
    return 0
  end
  return event == 'settle' and actual.amounts[charge[METER]] or terms[AT_MOST][charge[METER]] or reserved
end

-- Adds to the row of the usage report; what corrects an expiry takes back what the expiry added.
local function report(event, terms, actual, corrects)
  local bound = terms[AT_MOST].spend or 0
  local sums = {0, 0, 0, 0, 0, 0} -- requests, input, cached, output, estimated, cost
  if event == 'settle' then
    sums = {1, actual.usage[1], actual.usage[2], actual.usage[3], bound, actual.amounts.spend or bound}
  elseif event == 'expire' then
    sums = {1, 0, 0, 0, bound, bound}
  end
  if corrects then
    sums[1], sums[5], sums[6] = sums[1] - 1, sums[5] - bound, sums[6] - bound
  end
  local any = false
  for _, sum in ipairs(sums) do
    any = any or sum ~= 0
  end
  if not any then
    return -- a void of what was pending: it was never in the report
  end
  local name = cmsgpack.pack({terms[DAY], terms[ORGANISATION], terms[TEAM], terms[USER], terms[KEY], terms[MODEL]})
  local kept = redis.call('HGET', USAGE, name)
  if kept then
    for at = 1, 6 do
      sums[at] = sums[at] + (struct.unpack('<i8', kept, 8 * at - 7))
    end
  else
    redis.call('ZADD', DAYS, 0, terms[DAY] .. '\0' .. name)
  end
  redis.call('HSET', USAGE, name, struct.pack('<i8i8i8i8i8i8', unpack(sums)))
end

-- The thresholds reached that nobody has been told of. What is written here is what makes it once.
local function alert(body, reached, now)
  local rows = {}
  for _, charge in ipairs(body[1]) do
    local at = reached[charge[COUNTER]]
    if at and #charge[ALERTS_AT] > 0 then
      local told, known = {}, {}
      local kept = redis.call('HGET', TOLD, charge[COUNTER])
      kept = kept and cmsgpack.unpack(kept) or {}
      for index = 1, #kept, 2 do
        -- Nothing is posted any more to a period that is no longer kept.
        if kept[index] >= at.oldest then
          told[#told + 1], told[#told + 2] = kept[index], kept[index + 1]
          known[kept[index + 1]] = known[kept[index + 1]] or kept[index] == at.bucket
        end
      end
      for _, threshold in ipairs(charge[ALERTS_AT]) do
        if at.posted >= threshold and not known[threshold] then
          local raised = redis.call('HGET', RAISED, raise_field(charge[COUNTER], at.bucket))
          local row = cmsgpack.pack({
            quota = charge[QUOTA],
            scope = charge[SCOPE],
            counter = charge[COUNTER],
            meter = charge[METER],
            window = charge[WINDOW],
            threshold = threshold,
            limit = in_force(charge[LIMIT], tonumber(raised or 0)),
            posted = at.posted,
            organisation = body[2][ORGANISATION],
            bucket = at.bucket,
            at_ns = now,
          })
          told[#told + 1], told[#told + 2] = at.bucket, threshold
          redis.call('HSET', ALERTS, redis.call('HINCRBY', META, 'alerts', 1), row)
          rows[#rows + 1] = row
        end
      end
      redis.call('HSET', TOLD, charge[COUNTER], cmsgpack.pack(told))
    end
  end
  return rows
end

-- Answers {1 where something was done, the state from now on or -1 for no such reservation, the alerts that are due}.
local function finish(id, event, actual, now)
  local packed = redis.call('HGET', HEADS, id)
  if not packed then
    return {0, -1, {}}
  end
  local head = cmsgpack.unpack(packed)
  local before = head[1]
  local after = TRANSITIONS[before] and TRANSITIONS[before][event]
  if not after then
    return {0, before, {}}
  end

  -- What changes in each counter, worked out before anything is written.
  local body = cmsgpack.unpack(redis.call('HGET', BODIES, id))
  local entry, writes, reached, seen, at = {now, after, id}, {}, {}, {}, 6
  for _, charge in ipairs(body[1]) do
    if not seen[charge[COUNTER]] then
      seen[charge[COUNTER]] = true
      local counter, bucket, reserved, was = head[at], head[at + 1], head[at + 2], head[at + 3]
      local posted = owed(event, charge, reserved, body[2], actual) - was
      local pending = before == PENDING and -reserved or 0
      local value = redis.call('HGET', COUNTERS, charge[COUNTER])
      if value then
        local found, ends, tally = opened(value)
        local cell = found == counter and cell_of(tally, bucket)
        if cell then -- else it counts nowhere any more
          posted = math.min(posted, MAX - (total(tally) + pending))
          local now_posted
          tally, now_posted = changed(tally, cell, posted, pending)
          writes[#writes + 1], writes[#writes + 2] = charge[COUNTER], closed(counter, ends, tally)
          if posted > 0 then
            reached[charge[COUNTER]] = {bucket = bucket, posted = now_posted, oldest = (struct.unpack('<i8', tally, 17))}
          end
        end
      end
      head[at + 3] = was + posted
      for _, number in ipairs({counter, bucket, posted, pending}) do
        entry[#entry + 1] = number
      end
      at = at + 4
    end
  end

  -- A command that needs memory comes first: where there is none it is refused before anything is half done.
  head[1] = after
  redis.call('HSET', HEADS, id, cmsgpack.pack(head))
  if #writes > 0 then
    redis.call('HSET', COUNTERS, unpack(writes))
  end
  redis.call('RPUSH', JOURNAL, cmsgpack.pack(entry))
  report(event, body[2], actual, before == EXPIRED)
  local alerts = alert(body, reached, now)
  local member = deadline_member(head[4], head[2], id)
  if before == PENDING then
    redis.call('ZADD', ENDED, 0, member)
    redis.call('ZREM', DEADLINES, member)
  end
  if after ~= EXPIRED and head[5] ~= '' then
    redis.call('ZREM', REQUESTS, request_prefix(head[5]) .. id)
  end
  return {1, after, alerts}
end
