#!lua flags=allow-key-locking
-- Changes blocks. Runs one or several steps, all of them atomically. A step's commands run only if all its
-- guards hold. src/blocklist/change.rs defines a step, and does the same in memory, where no script can
-- run. A differential test checks that the two agree.
--
-- KEYS   1: the blocks' version; 2: the blocked ranges; then the other keys of the commands. In a
--        cluster, if no step changes the version, only the keys of the commands.
-- ARGV   a token that no other change has; then for each step the version that it changes ('',
--        'addresses' or 'ranges'), the number of its guards, the guards, the number of its commands,
--        the commands. A guard is a relation, a value and a command, which runs only if all guards
--        before it held. A command is the number of its words, then the words.
-- Answer a list for each step: '1' if its guards held, else '0'; then its commands' replies as text.
local token, place = ARGV[1], 2

local function word()
  place = place + 1
  return ARGV[place - 1]
end

-- The indexes of the next command's first and last word.
local function command()
  local words = tonumber(word())
  place = place + words
  return place - words, place - 1
end

-- Runs a command. Returns its reply as text; for a list, its first item; false for nil.
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

local function change_version(kind)
  -- MGET, because GET fails if the value is no text. MGET answers nil then.
  local stored = redis.call('MGET', KEYS[1])[1] or ''
  local epoch, ranges, addresses = string.match(stored, '^(%x+)%-(%x+)%-(%x+)$')
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
  local kind, guards_hold, answer = word(), true, {'0'}
  for _ = 1, tonumber(word()) do
    local relation, value = word(), word()
    local first, last = command()
    guards_hold = guards_hold and holds(relation, value, call(first, last))
  end
  for _ = 1, tonumber(word()) do
    local first, last = command()
    if guards_hold then
      answer[#answer + 1] = call(first, last) or ''
    end
  end
  if guards_hold then
    answer[1] = '1'
    if kind ~= '' then
      change_version(kind)
    end
  end
  answers[#answers + 1] = answer
end
return answers
