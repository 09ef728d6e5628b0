-- Announce a `message`; with an idempotency key at most once in 24 hours. A user's own mailbox is kept within bounds.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 history_ms, 2 feed length, 3 bus, 4 channel, 5 name as JSON, 6 data as JSON, 7 user as JSON ('' none),
--       8 user, 9 idempotency key ('' none), 10 digest of the body, 11 keep_ms of the key,
--       12 keep_ms of messages in mailboxes
-- Returns: {'ok', epoch, seq, announced 0/1} or {'conflict'}

local channel = ARGV[4]
local record = ARGV[9] ~= '' and base .. 'once:' .. channel .. SEP .. ARGV[9] or nil
if record then
  local answer = redis.call('GET', record)
  if answer then
    local part = split(answer)
    if part[1] ~= ARGV[10] then
      return {'conflict'}
    end
    redis.call('SET', record, answer, 'KEEPTTL') -- durable means the same the second time: there is a write to wait for
    return {'ok', part[2], part[3], 0}
  end
end
local body = '"type":"message","name":' .. ARGV[5] .. ',"data":' .. ARGV[6]
  .. (ARGV[7] ~= '' and ',"user":' .. ARGV[7] or '')
local mailbox = string.sub(channel, 1, 7) == '@inbox:'
if mailbox then
  make_room(channel, ARGV[12], #body + HEAD_BYTES)
end
local epoch, seq = announce(channel, 'message', '', ARGV[8], '', '', body)
if record then
  redis.call('SET', record, table.concat({ARGV[10], epoch, int(seq)}, SEP), 'PX', ARGV[11])
  if mailbox then -- so that whoever erases the user finds the record
    local onces = base .. 'onces:' .. channel
    redis.call('ZREMRANGEBYSCORE', onces, '-inf', int(now))
    redis.call('ZADD', onces, int(now + tonumber(ARGV[11])), ARGV[9])
    redis.call('PEXPIRE', onces, ARGV[11])
  end
end
return {'ok', epoch, int(seq), 1}
