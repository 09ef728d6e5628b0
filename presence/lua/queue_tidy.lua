-- Forget what every queue has acknowledged, and consumers that are long gone.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 entries that the feed keeps in any case, 2 most entries, 3 ms after which an idle consumer is forgotten
-- Returns: {'ok', entries in the feed}

local feed, kept = base .. 'feed', tonumber(ARGV[1])
local groups = groups_of(feed)
give_way(tonumber(ARGV[2]))

-- The first entry that somebody still needs; without queues nobody does.
local needed = nil
for _, group in ipairs(groups) do
  local pending = redis.call('XPENDING', feed, group.name)
  local first = pending[1] > 0 and pending[2] or next_id(group.read)
  if not needed or is_after(needed, first) then
    needed = first
  end
  for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', feed, group.name)) do
    if field_of(flat, 'pending') == 0 and field_of(flat, 'idle') > tonumber(ARGV[3]) then
      redis.call('XGROUP', 'DELCONSUMER', feed, group.name, field_of(flat, 'name'))
    end
  end
end

local length = redis.call('XLEN', feed)
for _ = 1, 20 do
  local rows = length > kept and redis.call('XRANGE', feed, '-', '+', 'COUNT', math.min(length - kept, 500)) or {}
  local last = nil
  for _, row in ipairs(rows) do
    if needed and not is_after(needed, row[1]) then
      break
    end
    last = row[1]
  end
  if not last then
    break
  end
  redis.call('XTRIM', feed, 'MINID', '=', next_id(last))
  length = redis.call('XLEN', feed)
end
return {'ok', length}
