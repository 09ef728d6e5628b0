-- Note that a node is there and how it is, or that it goes; or tell which nodes were there lately. Runs in partition 0.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 node ('' only asks), 2 its report ('' says that it goes), 3 how long it has run in ms, 4 keep_ms
-- Returns: {'settling'}, or {'ok', now, then for each node: node, seen at, started at, report}

local nodes, keep = base .. 'nodes', tonumber(ARGV[4])

-- Also of a row from the future: the clock was set back.
local function forgotten(row)
  return math.abs(now - tonumber(split(row)[1])) > keep
end

if ARGV[1] ~= '' then
  local met = redis.call('HEXISTS', nodes, ARGV[1]) == 1
  if ARGV[2] == '' then
    redis.call('HDEL', nodes, ARGV[1])
    return {'ok', int(now)}
  end
  redis.call('HSET', nodes, ARGV[1], table.concat({int(now), int(now - tonumber(ARGV[3])), ARGV[2]}, SEP))
  redis.call('PEXPIRE', nodes, int(keep))
  local rows = met and {} or redis.call('HGETALL', nodes) -- only a new one makes the list longer
  for at = 1, #rows, 2 do
    if forgotten(rows[at + 1]) then
      redis.call('HDEL', nodes, rows[at])
    end
  end
  return {'ok', int(now)}
end

if not readable() then
  return {'settling'}
end
local rows, answer = redis.call('HGETALL', nodes), {'ok', int(now)}
for at = 1, #rows, 2 do
  if not forgotten(rows[at + 1]) then
    local part = split(rows[at + 1])
    for _, value in ipairs({rows[at], part[1], part[2], part[3]}) do
      answer[#answer + 1] = value
    end
  end
end
return answer
