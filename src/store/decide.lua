#!lua flags=allow-key-locking
-- Decides one request against all of its quotas and blocks, atomically. This is src/store/decide.rs
-- and src/quota/*.rs in Lua; shared vectors and a differential test check that the two agree.
-- Without the flag above Upstash locks the whole database for every script.
--
-- KEYS   1: version of the blocked ranges; 2, if ARGV[3] is 1: the address's block record;
--        then per quota: its state; if it has a backlog, the key with the part of it that was
--        added before; if its block is not 0, its block record.
-- ARGV   now, cost, 0 or 1; then per quota: algorithm (s, t, f), limit, window, burst, block,
--        1 if enforced, 0 if in shadow mode, the most units to lease, and the backlog as a
--        state's text, '' for none. Times in ms.
-- Answer {ranges version, address's block record, then per quota
--         {0 denied / 1 allowed / 2 impossible, remaining, retry at, reset at, at, blocked until,
--          units leased, the text of the quota's own state after the decision, '' for none}}
-- If ARGV[3] is r, the script refunds an admission. KEYS are the states, ARGV[2] is the units, and the
-- time of the admission replaces the most units to lease. Answer: how many states it changed.
local CLOCK_TOLERANCE = 2000
local MAX_NUMBER = 4503599627370496
local MAX_COUNT = 4294967295
local MAX_LEVEL = 2251799813685248
local MAX_WINDOW = 31622400000
local MAX_TEXT = 1000
local MAX_OTHERS = 3
local PARTS = 60
local fmod, floor, max, min = math.fmod, math.floor, math.max, math.min

local now, cost = tonumber(ARGV[1]), tonumber(ARGV[2])

local function div(a, b)
  return (a - fmod(a, b)) / b
end

local function div_ceil(a, b)
  local rest = fmod(a, b)
  return (a - rest) / b + (rest > 0 and 1 or 0)
end

-- Not tostring, which writes 1.764e+12 for a time.
local function text(n)
  return string.format('%.0f', n)
end

-- The number in a text of at most 16 digits and at most MAX_NUMBER; else nil.
local function number(s)
  if s and #s <= 16 and string.find(s, '^%d+$') then
    local n = tonumber(s)
    if n <= MAX_NUMBER then
      return n
    end
  end
  return nil
end

-- The most sub-windows between the beginning and the end of a lease.
local function lead(width)
  return min(6, div_ceil(5000, width))
end

-- The list of {sub-window, count} in a sliding window's text; nil if the text is invalid, or if a
-- sub-window is after `last`, the latest that the state's clock or a lease can have reached.
local function sub_windows(first, list, last)
  local counts, previous = {}, -1
  for item in string.gmatch(list .. ',', '([^,]*),') do
    local offset, count = string.match(item, '^(%d+)=(%d+)$')
    offset, count = number(offset), number(count)
    if not offset or not count then
      return nil
    end
    local index = first + offset
    if index <= previous or index > last or count == 0 or count > MAX_COUNT then
      return nil
    end
    counts[#counts + 1] = {index, count}
    previous = index
  end
  return counts
end

-- Parses a state's text; nil if it is invalid.
local function parse(s)
  local tag, width, clock, third, rest = string.match(s, '^(%l%l):(%d+):(%d+):(%d+)(.*)$')
  width, clock, third = number(width), number(clock), number(third)
  if not (width and clock and third) or #s > MAX_TEXT then
    return nil
  end
  if width == 0 or width > MAX_WINDOW / (tag == 'sw' and PARTS or 1) then
    return nil
  end
  local state = {text = s, tag = tag, width = width, clock = clock}
  local fifth = string.sub(rest, 1, 1) == ':' and string.sub(rest, 2)
  if tag == 'sw' and fifth then
    state.counts = sub_windows(third, fifth, div(clock, width) + lead(width))
    return state.counts and state
  elseif tag == 'tb' and fifth then
    local limit = number(fifth) or 0
    state.level, state.limit = third, limit
    return limit > 0 and limit <= MAX_COUNT and limit * width <= MAX_LEVEL and state
  elseif tag == 'fw' and rest == '' and third <= MAX_COUNT then
    state.count = third
    return state
  end
  return nil
end

local function is_of(state, tag, width)
  return state and state.tag == tag and state.width == width
end

-- The state in a text, if it has this shape.
local function read(s, tag, width)
  local state = s and parse(s)
  return is_of(state, tag, width) and state or nil
end

-- The states in a key's text: the one of this shape, and the list of the others; nil for none.
local function states(stored, tag, width)
  if not stored then
    return nil, nil
  end
  if not string.find(stored, ';', 1, true) then
    local state = parse(stored)
    if is_of(state, tag, width) then
      return state, nil
    end
    return nil, state and {state}
  end
  local own, others = nil, {}
  for part in string.gmatch(stored, '[^;]+') do
    local state = parse(part)
    if is_of(state, tag, width) then
      own = own or state
    elseif state then
      others[#others + 1] = state
    end
  end
  return own, others
end

-- The time of a decision, and whether the state's clock is believed.
local function decided_at(clock)
  if clock > now + CLOCK_TOLERANCE then
    return now, false
  end
  return max(now, clock), true
end

-- How long leased units may be spent: src/quota/lease_time.rs.
local function lease_time(window)
  return min(5000, div(window, 10))
end

-- How many units are leased.
local function leased(max_lease, remaining, time)
  return time > 0 and min(max_lease, div(remaining, 4)) or 0
end

-- A state to keep: {text, expires at}.
local function fixed(window, clock, count)
  local ends = (div(clock, window) + 1) * window
  return {'fw:' .. text(window) .. ':' .. text(clock) .. ':' .. text(count), ends}
end

local function bucket(period, clock, level, limit)
  return {'tb:' .. text(period) .. ':' .. text(clock) .. ':' .. text(level) .. ':' .. text(limit),
    clock + div_ceil(level, limit)}
end

-- The level that remains after a time. It compares before it multiplies, to stay exact.
local function drained(level, time, rate)
  return time >= div_ceil(level, rate) and 0 or level - time * rate
end

-- Each algorithm takes a state or nil, the text of the backlog, and the text of the part of the
-- backlog that was added before, which it subtracts. It returns a function that decides a request
-- of `units`, and leases up to `max_lease` more if the request is admitted. That returns {outcome,
-- remaining, retry at, reset at, at, 0, units leased}, the state to keep if the request is admitted,
-- the state to keep if it is not (nil: unchanged), and whether both contain units of the backlog.
-- A state to keep is {text, expires at}.
local algorithms = {}

function algorithms.f(state, backlog, counted, limit, window)
  local function fields(one)
    if one then
      return one.clock, one.count
    end
    return 0, 0
  end
  local clock, count = fields(state)
  local backlog_clock, backlog_count = fields(read(backlog, 'fw', window))
  local counted_clock, counted_count = fields(read(counted, 'fw', window))
  if div(counted_clock, window) == div(backlog_clock, window) then
    backlog_count = max(0, backlog_count - counted_count)
  end
  return function(units, max_lease)
    local at, believed = decided_at(clock)
    local here = div(at, window)
    -- Units that a clock ahead of now has counted were taken by now.
    local function counting(when, n)
      return (when > at or div(when, window) == here) and n or 0
    end
    local used = counting(clock, count)
    local added = max(0, min(counting(backlog_clock, backlog_count), limit - used))
    used = used + added
    local ends = (here + 1) * window
    local outcome, retry = 0, ends
    if units > limit then
      outcome, retry = 2, 0
    elseif used + units <= limit then
      outcome, retry = 1, 0
    end
    local function keep(n)
      return fixed(window, at, n)
    end
    local changed = added > 0 or (not believed and used > 0)
    local kept = changed and keep(used) or nil
    local spent = outcome == 1 and units or 0
    used = used + spent
    local remaining, lease = max(0, limit - used), 0
    if outcome == 1 then
      lease = leased(max_lease, remaining, lease_time(window))
    end
    used = used + lease
    local answer = {outcome, remaining, retry, used > 0 and ends or now, at, 0, lease}
    return answer, spent + lease > 0 and keep(used) or kept, kept, added > 0
  end
end

function algorithms.t(state, backlog, counted, limit, period, burst)
  local full = burst * period
  local function fields(one)
    if one then
      return one.clock, one.level
    end
    return 0, 0
  end
  local clock, stored = fields(state)
  local backlog_clock, backlog_level = fields(read(backlog, 'tb', period))
  local counted_clock, counted_level = fields(read(counted, 'tb', period))
  local before = drained(counted_level, max(0, backlog_clock - counted_clock), limit)
  backlog_level = max(0, backlog_level - before)
  return function(units, max_lease)
    local at, believed = decided_at(clock)
    local level = drained(min(stored, full), max(0, at - clock), limit)
    local added = min(drained(backlog_level, max(0, at - backlog_clock), limit), full - level)
    level = level + added
    local price = units * period
    local outcome, retry = 0, 0
    if units > burst then
      outcome = 2
    elseif level + price <= full then
      outcome = 1
    else
      retry = at + div_ceil(level + price - full, limit)
    end
    local function keep(n)
      return bucket(period, at, n, limit)
    end
    local changed = added > 0 or (not believed and level > 0)
    local kept = changed and keep(level) or nil
    local spent = outcome == 1 and price or 0
    level = level + spent
    local remaining, lease = div(max(0, full - level), period), 0
    if outcome == 1 then
      local time = min(lease_time(period), div(div_ceil(full, limit), 10))
      lease = leased(max_lease, remaining, time)
      if lease > 0 then
        level = max(level, time * limit) + lease * period
        remaining = div(max(0, full - level), period) + lease
      end
    end
    local answer = {outcome, remaining, retry, at + div_ceil(level, limit), at, 0, lease}
    return answer, spent + lease > 0 and keep(level) or kept, kept, added > 0
  end
end

-- A sliding window's state to keep: {text, expires at}. The text is '' if it counts nothing.
local function windows(width, clock, counts, window)
  local items, base, last = {}, counts[1], counts[#counts]
  if not base then
    return {'', 0}
  end
  for i, sub in ipairs(counts) do
    items[i] = text(sub[1] - base[1]) .. '=' .. text(sub[2])
  end
  return {'sw:' .. text(width) .. ':' .. text(clock) .. ':' .. text(base[1]) .. ':'
    .. table.concat(items, ','), (last[1] + 1) * width + window}
end

-- Adds units to a sub-window. It searches from the end, where most are added.
local function add(counts, index, units)
  local place = #counts
  while place > 0 and counts[place][1] > index do
    place = place - 1
  end
  local found = counts[place]
  if found and found[1] == index then
    counts[place] = {index, min(found[2] + units, MAX_COUNT)}
  else
    table.insert(counts, place + 1, {index, units})
  end
end

function algorithms.s(state, backlog, counted, limit, window)
  local width = div_ceil(window, PARTS)
  local function fields(one)
    if one then
      return one.clock, one.counts
    end
    return 0, {}
  end
  local clock, stored = fields(state)
  local _, backlog_counts = fields(read(backlog, 'sw', width))
  local _, before = fields(read(counted, 'sw', width))
  for _, sub in ipairs(before) do
    add(backlog_counts, sub[1], -sub[2])
  end
  local function leaves_at(index)
    return (index + 1) * width + window
  end
  return function(units, max_lease)
    local at, believed = decided_at(clock)
    local here = div(at, width)
    local counts, used = {}, 0
    -- Units that a clock ahead of now has counted were taken by now. Units that it leased are as
    -- far ahead of now as they were of that clock, or one sub-window more.
    local function brought_back(index, last)
      if index <= here then
        return index
      end
      return here + (index > last and min(index - last + 1, lead(width)) or 0)
    end
    -- Adds the units that still count, up to `room`, and returns how many it added.
    local function take(subs, room, last)
      local taken = 0
      for _, sub in ipairs(subs) do
        local index, n = sub[1], min(sub[2], room - taken)
        if last then
          index = brought_back(index, last)
        end
        if n > 0 and leaves_at(index) > at then
          add(counts, index, n)
          taken = taken + n
        end
      end
      return taken
    end
    take(stored, math.huge, not believed and div(clock, width))
    for _, sub in ipairs(counts) do
      used = used + sub[2]
    end
    local added = take(backlog_counts, limit - used, math.huge)
    used = used + added
    local function keep()
      return windows(width, at, counts, window)
    end
    local outcome, retry = 0, 0
    if units > limit then
      outcome = 2
    elseif used + units <= limit then
      outcome = 1
    else
      local need, freed = used + units - limit, 0
      for _, sub in ipairs(counts) do
        retry, freed = leaves_at(sub[1]), freed + sub[2]
        if freed >= need then
          break
        end
      end
    end
    local changed = added > 0 or (not believed and #counts > 0)
    local kept = changed and keep() or nil
    local spent = outcome == 1 and units or 0
    if spent > 0 then
      add(counts, here, spent)
    end
    local remaining, lease = max(0, limit - used - spent), 0
    if outcome == 1 then
      local time = lease_time(window)
      lease = leased(max_lease, remaining, time)
      if lease > 0 then
        add(counts, div(at + time, width), lease)
      end
    end
    local reset = #counts > 0 and leaves_at(counts[#counts][1]) or now
    local answer = {outcome, remaining, retry, reset, at, 0, lease}
    return answer, spent + lease > 0 and keep() or kept, kept, added > 0
  end
end

local SHAPES = {s = 'sw', t = 'tb', f = 'fw'}

-- The algorithm of the widest quota that has states of this shape.
local function of_shape(state)
  local width = state.width
  if state.tag == 'sw' then
    return algorithms.s(state, nil, nil, MAX_COUNT, width * PARTS)
  elseif state.tag == 'tb' then
    local burst = min(MAX_COUNT, div(MAX_LEVEL, width))
    return algorithms.t(state, nil, nil, state.limit, width, burst)
  end
  return algorithms.f(state, nil, nil, MAX_COUNT, width)
end

-- When a state no longer counts.
local function ends_at(state)
  local width = state.width
  if state.tag == 'sw' then
    return (state.counts[#state.counts][1] + 1 + PARTS) * width
  elseif state.tag == 'tb' then
    return state.clock + div_ceil(state.level, state.limit)
  end
  return (div(state.clock, width) + 1) * width
end

-- A state of another shape to keep; nil if it no longer counts. It repairs a faulty clock, as the
-- state's own policy version would do.
local function kept(state)
  if state.clock > now + CLOCK_TOLERANCE then
    local _, _, repaired = of_shape(state)(0, 0)
    return repaired
  end
  local ends = ends_at(state)
  return ends + CLOCK_TOLERANCE > now and {state.text, ends} or nil
end

-- The text of a state to keep and of the other shapes that still count, and when all have expired.
local function joined(keep, others)
  if not others then
    return keep[1], keep[2]
  end
  local list = {}
  for _, other in ipairs(others) do
    list[#list + 1] = kept(other)
    if #list > MAX_OTHERS then
      local soonest = 1
      for i, one in ipairs(list) do
        if one[2] < list[soonest][2] then
          soonest = i
        end
      end
      table.remove(list, soonest)
    end
  end
  local value, ends = keep[1], keep[2]
  for _, other in ipairs(list) do
    value, ends = (value == '' and value or value .. ';') .. other[1], max(ends, other[2])
  end
  return value, ends
end

local function px(ends)
  return text(max(1, ends - now))
end

-- Stores a state a little longer than it counts, for isolates whose clocks are behind.
local function store(key, keep, others)
  local value, ends = joined(keep, others)
  if value == '' then
    redis.call('DEL', key)
  else
    redis.call('SET', key, value, 'PX', px(ends + CLOCK_TOLERANCE))
  end
end

-- The width of a quota's states.
local function width_of(algorithm, window)
  return algorithm == 's' and div_ceil(window, PARTS) or window
end

-- A state without the units that were taken at a time; nil if none of them counts.
local function refunded(state, units, taken_at, limit, window, burst)
  local width, clock = state.width, state.clock
  local at, believed = decided_at(clock)
  if not believed or units == 0 then
    return nil
  end
  if state.tag == 'sw' then
    local counts, index = state.counts, div(taken_at, width)
    for place, sub in ipairs(counts) do
      if sub[1] == index then
        sub[2] = sub[2] - units
        if sub[2] <= 0 then
          table.remove(counts, place)
        end
        return windows(width, clock, counts, window)
      end
    end
  elseif state.tag == 'fw' then
    if div(taken_at, width) == div(clock, width) and state.count > 0 then
      return fixed(width, clock, max(0, state.count - units))
    end
  elseif at >= taken_at then
    local refund = drained(units * width, at - taken_at, limit)
    local level = drained(state.level, at - clock, limit) - refund
    local highest = drained(min(state.level, burst * width), at - clock, limit)
    return refund > 0 and bucket(width, at, max(0, min(level, highest)), limit) or nil
  end
  return nil
end

local values = redis.call('MGET', unpack(KEYS))
if ARGV[3] == 'r' then
  local changed = 0
  for place, key in ipairs(KEYS) do
    local i = 8 * place - 4
    local algorithm, window = ARGV[i], tonumber(ARGV[i + 2])
    local own, others = states(values[place], SHAPES[algorithm], width_of(algorithm, window))
    local keep = own and refunded(own, cost, tonumber(ARGV[i + 6]), tonumber(ARGV[i + 1]), window,
      tonumber(ARGV[i + 3]))
    if keep then
      store(key, keep, others)
      changed = changed + 1
    end
  end
  return changed
end

local place = 1
local address_blocked = false
local address_block = false
if ARGV[3] == '1' then
  place = 2
  address_block = values[2]
  if address_block then
    local digits = string.match(address_block, '^{"until":(%d+)')
    local ends = digits and #digits <= 15 and tonumber(digits)
    address_blocked = not ends or ends > now
    address_block = address_blocked and address_block
  end
end

local quotas = {}
local blocked, admitted, impossible = address_blocked, true, false
for i = 4, #ARGV, 8 do
  local limit, window = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local block, enforced, backlog = tonumber(ARGV[i + 4]), ARGV[i + 5] == '1', ARGV[i + 7]
  place = place + 1
  local q = {key = KEYS[place], block = block, enforced = enforced, blocked_until = 0}
  q.own, q.others = states(values[place], SHAPES[ARGV[i]], width_of(ARGV[i], window))
  if backlog ~= '' then
    place = place + 1
    q.absorbed_key = KEYS[place]
    q.backlog, q.counted = backlog, values[place]
  end
  local algorithm, burst = algorithms[ARGV[i]], tonumber(ARGV[i + 3])
  q.decide = algorithm(q.own, q.backlog, q.counted, limit, window, burst)
  q.answer, q.admitted, q.kept, q.absorbed = q.decide(cost, tonumber(ARGV[i + 6]))
  if block > 0 then
    place = place + 1
    q.block_key = KEYS[place]
    local ends = number(values[place])
    if ends and ends > now and ends <= now + block + CLOCK_TOLERANCE then
      q.blocked_until = ends
      blocked = true
    end
  end
  if enforced then
    admitted = admitted and q.answer[1] == 1
    impossible = impossible or q.answer[1] == 2
  end
  quotas[#quotas + 1] = q
end
admitted = admitted and not blocked

local answers = {values[1], address_block}
for _, q in ipairs(quotas) do
  local keep = q.kept
  if admitted then
    keep = q.admitted
  elseif q.answer[1] == 1 then
    q.answer = q.decide(q.enforced and 0 or cost, 0)
  elseif q.block_key and not blocked and not impossible and cost > 0 then
    q.blocked_until = now + q.block
    redis.call('SET', q.block_key, text(q.blocked_until), 'PX', px(q.blocked_until))
  end
  if keep then
    store(q.key, keep, q.others)
    if q.absorbed then
      redis.call('SET', q.absorbed_key, q.backlog, 'PX', px(keep[2] + CLOCK_TOLERANCE))
    end
  end
  q.answer[6] = q.blocked_until
  q.answer[8] = keep and keep[1] or q.own and q.own.text or ''
  answers[#answers + 1] = q.answer
end
return answers
