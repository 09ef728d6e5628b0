-- Tell a channel's epochs, for `inbox_ack`; runs in the channel's partition.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 channel
-- Returns: {'settling'} or {'ok', first epoch of this history, epochs}; both are '' for a channel nobody spoke of

if not readable() then
  return {'settling'}
end
local born, epochs = history_of(ARGV[1])
return {'ok', born or '', epochs or ''}
