#!lua flags=allow-key-locking
-- Commands in order, and nothing in between. src/redis/run.rs calls it.
--
-- KEYS   every key that the commands touch.
-- ARGV   for each command the number of its words, and them.
-- Answer their replies in a list: texts, numbers, lists and nil. A command that cannot do with what its
--        key holds fails alone, as in a transaction, and the answer is its error. Any other error, such
--        as of a Redis that is full, ends them.
local replies, place, failed = {}, 1, nil
while place <= #ARGV do
  local last = place + tonumber(ARGV[place])
  local reply = redis.pcall(unpack(ARGV, place + 1, last))
  if type(reply) == 'table' and reply.err then
    failed = failed or reply
    if not (string.find(reply.err, 'WRONGTYPE') or string.find(reply.err, 'value is not')) then
      return failed
    end
    reply = false
  end
  replies[#replies + 1] = reply
  place = last + 1
end
return failed or replies
