-- Look where something waits for a user, without reading it; a channel that was lost, or that another setting kept,
-- keeps its events for them again. Runs in the channels' partition.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 user, 2 keep_ms, then for each channel 3 its name, 4 the user's position ('' none)
-- Returns: {'settling'} or {'ok', channels that did not know the user and now do: undo that where the user is not
--          subscribed any more, of each channel with something to tell: its name, how many events}

local user, keep = ARGV[1], ARGV[2]
if not readable() then
  return {'settling'}
end

local strange, reply = {}, {}
for at = 3, #ARGV, 2 do
  local channel, row = ARGV[at], ARGV[at + 1]
  local born, text, kept = history_of(channel)
  local epochs = epochs_in(text or '')
  local from, known = reached(row, born, epochs)
  if row ~= '' and string.sub(channel, 1, 1) ~= '@' and (not known or kept ~= keep) then
    if redis.call('SADD', base .. 'subscribers:' .. channel, user) == 1 then
      strange[#strange + 1] = channel
    end
    keep_for(channel, user, keep)
  end
  local present = epochs[#epochs]
  if present and present.held + present.last > from then
    reply[#reply + 1] = channel
    reply[#reply + 1] = int(present.held + present.last - from)
  end
end
return {'ok', strange, reply}
