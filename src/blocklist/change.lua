#!lua flags=allow-key-locking
-- Changes of blocks: each step where its guards hold, all of them atomically. src/blocklist/change.rs
-- says what a step is and runs the same where no script can be run; a differential test holds the two
-- together.
--
-- KEYS   1: the blocks' version; 2: the blocked ranges; then what else the commands touch. In a cluster,
--        where no step has a mark, only what the commands touch.
-- ARGV   a token that no change had before; then for each step its mark ('', 'addresses' or
--        'ranges'), the number of its guards, the guards, the number of its commands, the commands.
--        A guard is a relation, a value and a command, run if all before it held; a command is the
--        number of its words, and them.
-- Answer for each step a list: '1' if its guards held, else '0'; then its commands' replies as text.
local token, place = ARGV[1], 2

local function word()
  place = place + 1
  return ARGV[place - 1]
end

-- The places of the next command's first and last word.
local function command()
  local words = tonumber(word())
  place = place + words
  return place - words, place - 1
end

-- A reply as text, of a list its first; false for none.
local function call(first, last)
  local reply = redis.call(unpack(ARGV, first, last))
  if type(reply) == 'table' then
    reply = reply.ok or reply[1] or false
  end
  return type(reply) == 'number' and string.format('%.0f', reply) or reply
end

local function holds(relation, value, reply)
  if relation == 'is' then
    return reply == value
  elseif relation == 'absent' then
    return reply == false
  end
  local number = tonumber(reply or '')
  if relation == 'above' then
    return number ~= nil and number > tonumber(value)
  end
  return number ~= nil and number < tonumber(value)
end

local function mark(kind)
  -- MGET: what is no text counts as none.
  local held = redis.call('MGET', KEYS[1])[1] or ''
  local epoch, ranges, addresses = string.match(held, '^(%x+)%-(%x+)%-(%x+)$')
  local carried_epoch, carried_ranges
  if kind == 'ranges' or not epoch then
    local carried = redis.call('HGET', KEYS[2], 'version') or ''
    carried_epoch, carried_ranges = string.match(carried, '^(%x+)%-(%x+)$')
  end
  local short = string.sub(token, 1, 8)
  if kind == 'addresses' then
    if not epoch then
      epoch, ranges = carried_epoch or '0', carried_ranges or '0'
    end
    addresses = short
  else
    local same = epoch == carried_epoch and ranges == carried_ranges
    epoch = carried_epoch and (same or not epoch) and carried_epoch or short
    ranges, addresses = token, addresses or short
    redis.call('HSET', KEYS[2], 'version', epoch .. '-' .. ranges)
  end
  redis.call('SET', KEYS[1], epoch .. '-' .. ranges .. '-' .. addresses)
end

local answers = {}
while place <= #ARGV do
  local kind, held, answer = word(), true, {'0'}
  for _ = 1, tonumber(word()) do
    local relation, value = word(), word()
    local first, last = command()
    held = held and holds(relation, value, call(first, last))
  end
  for _ = 1, tonumber(word()) do
    local first, last = command()
    if held then
      answer[#answer + 1] = call(first, last) or ''
    end
  end
  if held then
    answer[1] = '1'
    if kind ~= '' then
      mark(kind)
    end
  end
  answers[#answers + 1] = answer
end
return answers
