-- Put before the scripts that read the feed or write it: what a queue is, what it wants, what it has lost.
-- A queue is a consumer group on this partition's feed, and on its own stream of what was given back to it:
-- queues         group -> max deliveries SEP types by comma ('' all) SEP channel pattern
-- lease:<group>  'f' or 'a' and the entry's id -> when its lease ends; every entry that is pending is in it
-- there:<group>  consumer -> when it asked last
-- dead:<group>   what was delivered too often;  again:<group>  what was taken out of there to be tried once more
-- lost           group -> entries that had to go before they were acknowledged
-- unarchived     user SEP channel SEP generation SEP last_seen SEP state of the newest presence that ended there, until
--                the queue `archive` has acknowledged it

local function queue_of(group)
  local row = redis.call('HGET', base .. 'queues', group)
  if not row then
    return nil
  end
  local part = split(row)
  return {name = group, deliveries = tonumber(part[1]), types = part[2], pattern = part[3]}
end

-- 'f' is the feed, 'a' the queue's own stream
local function stream_of(group, source)
  return source == 'f' and base .. 'feed' or base .. 'again:' .. group
end

local function field_of(fields, name)
  for at = 1, #fields, 2 do
    if fields[at] == name then
      return fields[at + 1]
    end
  end
  return nil
end

-- Patterns are as in tokens: `*` is any run of characters, everywhere. As `matches` in auth.py.
local function fits(pattern, channel)
  local from, at = 1, 1
  while true do
    local star = string.find(pattern, '*', at, true)
    local part = string.sub(pattern, at, (star or 0) - 1)
    if not star then -- the last part ends the name
      if at == 1 then
        return part == channel
      end
      return #channel - #part + 1 >= from and string.sub(channel, #channel - #part + 1) == part
    end
    local found, last = string.find(channel, part, from, true)
    if not found or (at == 1 and found ~= 1) then
      return false
    end
    from, at = last + 1, star + 1
  end
end

local function wants_kind(queue, channel, kind)
  if not fits(queue.pattern, channel) then
    return false
  end
  return queue.types == '' or string.find(',' .. queue.types .. ',', ',' .. kind .. ',', 1, true) ~= nil
end

local function wants(queue, fields)
  local kind = string.match(field_of(fields, 'event'), '^{"seq":%d+,"at":%d+,"type":"(%a+)"')
  return wants_kind(queue, field_of(fields, 'channel'), kind)
end

-- What is kept of an ended presence until the queue `archive` has acknowledged it. As `keep_ended` in _ended.lua.
local function let_go(group, fields)
  local seen = group == 'archive' and string.match(field_of(fields, 'event'), '"last_seen":(%d+)}$')
  if seen then
    redis.call('ZREM', base .. 'unarchived', table.concat({
      field_of(fields, 'user'), field_of(fields, 'channel'), field_of(fields, 'generation'), seen,
      field_of(fields, 'unclaimed') and '' or field_of(fields, 'state'),
    }, SEP))
  end
end

-- Whether an entry came after another, by their ids: milliseconds-number.
local function is_after(id, other)
  local ms, number = string.match(id, '^(%d+)-(%d+)$')
  local other_ms, other_number = string.match(other, '^(%d+)-(%d+)$')
  ms, other_ms = tonumber(ms), tonumber(other_ms)
  return ms > other_ms or (ms == other_ms and tonumber(number) > tonumber(other_number))
end

local function next_id(id)
  local ms, number = string.match(id, '^(%d+)-(%d+)$')
  return ms .. '-' .. int(tonumber(number) + 1)
end

-- The consumer groups of a stream: name, last delivered id, entries pending or unread (0 where Redis does not count).
local function groups_of(stream)
  local groups = {}
  if redis.call('EXISTS', stream) == 1 then
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
      groups[#groups + 1] = {
        name = field_of(flat, 'name'), read = field_of(flat, 'last-delivered-id'),
        behind = (tonumber(field_of(flat, 'lag')) or 0) + field_of(flat, 'pending'),
      }
    end
  end
  return groups
end

-- The feed is too long: the oldest entries go, some at once, and every queue that had not acknowledged one of them has lost it.
local function give_way(most)
  local feed = base .. 'feed'
  local excess = redis.call('XLEN', feed) - most
  if excess <= 0 then
    return 0
  end
  local rows = redis.call('XRANGE', feed, '-', '+', 'COUNT', math.min(math.max(excess, math.floor(most / 1000)), 1000))
  local last = rows[#rows][1]
  for _, group in ipairs(groups_of(feed)) do
    local queue, lost = queue_of(group.name), 0
    for _, row in ipairs(rows) do
      if queue and is_after(row[1], group.read) then
        let_go(group.name, row[2]) -- also what it does not want any more
        lost = lost + (wants(queue, row[2]) and 1 or 0)
      end
    end
    for _, held in ipairs(redis.call('XPENDING', feed, group.name, '-', last, #rows)) do
      redis.call('XACK', feed, group.name, held[1])
      redis.call('ZREM', base .. 'lease:' .. group.name, 'f' .. held[1])
      lost = lost + 1
      for _, row in ipairs(group.name == 'archive' and redis.call('XRANGE', feed, held[1], held[1]) or {}) do
        let_go(group.name, row[2])
      end
    end
    if lost > 0 then
      redis.call('HINCRBY', base .. 'lost', group.name, lost)
    end
  end
  redis.call('XTRIM', feed, 'MINID', '=', next_id(last))
  return #rows
end
