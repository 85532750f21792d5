#!lua flags=allow-key-locking
-- Runs several commands in order, atomically. src/redis/run.rs calls it.
--
-- KEYS   every key that the commands read or write.
-- ARGV   for each command: the number of its words, then the words.
-- Answer a list of the replies: texts, numbers, lists and nil. If a command fails, the first error
--        instead. After a command for which a key's value has the wrong type, the others still run, as in
--        a transaction. Any other error, such as that of a full Redis, stops the script.
local replies, place, first_error = {}, 1, nil
while place <= #ARGV do
  local last = place + tonumber(ARGV[place])
  local reply = redis.pcall(unpack(ARGV, place + 1, last))
  if type(reply) == 'table' and reply.err then
    first_error = first_error or reply
    if not (string.find(reply.err, 'WRONGTYPE') or string.find(reply.err, 'value is not')) then
      return first_error
    end
    reply = false
  end
  replies[#replies + 1] = reply
  place = last + 1
end
return first_error or replies
