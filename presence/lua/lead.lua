-- Who does a work that one node at a time may do: a lease, and a note from whoever does it to whoever does it next.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 work, 2 node ('' only asks), 3 lease_ms (0 gives it up), 4 note ('' leaves it as it is)
-- Returns: {whether the node does it now 0/1, node that does it or '', note}

local MOST_MS = 600000 -- a lease that ends later is of another clock

local key = base .. 'lead:' .. ARGV[1]
local row = redis.call('HMGET', key, 'node', 'until', 'note')
local ends, note = tonumber(row[2] or 0), row[3] or ''
local node = row[1] and ends > now and ends <= now + MOST_MS and row[1] or ''
if ARGV[2] == '' or (node ~= '' and node ~= ARGV[2]) then -- guard: one node at a time
  return {0, node, note}
end
redis.call('HSET', key, 'node', ARGV[2], 'until', int(now + tonumber(ARGV[3])))
if ARGV[4] ~= '' then
  note = ARGV[4]
  redis.call('HSET', key, 'note', note)
end
return {1, ARGV[2], note}
