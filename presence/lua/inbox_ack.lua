-- Move the position that is kept for a user to a cursor, never backwards; runs in the user's partition.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 user, 2 channel, 3 cursor epoch, 4 cursor seq, 5 first epoch of the channel's history, 6 its epochs,
--       7 only where one is kept (0/1)
-- Returns: {'ok', moved 0/1}, {'none'} (not subscribed) or {'ahead'} (no such event yet)

local channel, born, epochs, seq = ARGV[2], ARGV[5], epochs_in(ARGV[6]), tonumber(ARGV[4])
local subs = base .. 'subs:' .. ARGV[1]
local row = redis.call('HGET', subs, channel)
if not row and ARGV[7] == '1' then
  return {'none'}
end
local total = nil
for at, epoch in ipairs(epochs) do
  if epoch.name == ARGV[3] then
    if at == #epochs and seq > epoch.last then
      return {'ahead'}
    end
    seq = math.min(seq, epoch.last)
    total = epoch.held + seq
  end
end
if not total or total <= reached(row, born, epochs) then -- guard: never backwards
  return {'ok', 0}
end
redis.call('HSET', subs, channel, table.concat({ARGV[3], int(seq), int(total), born}, SEP))
return {'ok', 1}
