-- Who does a work that one node at a time may do: a lease, and a note from whoever does it to whoever does it next.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 work, 2 node ('' only asks), 3 lease_ms (0 gives it up), 4 note ('' leaves it as it is),
--       5 term in which the note was written
-- Returns: {whether the node does it now 0/1, node that does it or '', note, term: another one after every change of node}

local MOST_MS = 600000 -- a lease that ends later is of another clock

local key = base .. 'lead:' .. ARGV[1]
local row = redis.call('HMGET', key, 'node', 'until', 'note', 'term')
local ends, note, term = tonumber(row[2] or 0), row[3] or '', tonumber(row[4] or 0)
local node = row[1] and ends > now and ends <= now + MOST_MS and row[1] or ''
if ARGV[2] == '' or (node ~= '' and node ~= ARGV[2]) then -- guard: one node at a time
  return {0, node, note, term}
end
if row[1] ~= ARGV[2] then
  term = math.max(term + 1, now) -- one that never was, even if Redis has lost the last one
end
redis.call('HSET', key, 'node', ARGV[2], 'until', int(now + tonumber(ARGV[3])), 'term', int(term))
if ARGV[4] ~= '' and tonumber(ARGV[5]) == term then -- guard: no note of an earlier term
  note = ARGV[4]
  redis.call('HSET', key, 'note', note)
end
return {1, ARGV[2], note, term}
