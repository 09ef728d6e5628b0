-- Give a user who returned the state with which an earlier presence ended, as the archive has it; announces `update`.
-- Does nothing where that presence is not the one that asked, or where its state was set meanwhile.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 history_ms, 2 feed length, 3 bus, 4 channel, 5 user, 6 generation that asked, 7 generation of the state,
--       8 state ('' there is none)
-- Returns: {'ok', announced 0/1}

local channel, user, state = ARGV[4], ARGV[5], ARGV[8]
local member = read_member(channel, user)
if not member or not member.unclaimed or member.generation ~= ARGV[6] then -- guard: generation of a promotion
  return {'ok', 0}
end
if state ~= '' and tonumber(ARGV[7]) >= tonumber(member.generation) then -- guard: age of a promoted state
  return {'ok', 0}
end
member.unclaimed = nil
local changed = state ~= '' and state ~= member.state
member.state = changed and state or member.state
write_member(channel, user, member)
if changed then
  announce(channel, 'update', '', user, '', state, '"type":"update","user":' .. member.json .. ',"state":' .. state,
    {'generation', member.generation, 'since', member.since})
end
return {'ok', changed and 1 or 0}
