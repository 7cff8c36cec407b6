-- Remembers a row of one order, or a tombstone, unless a newer version is remembered under its key.
--
-- KEYS[1]  the order
-- ARGV[1]  the entry: version (4 bytes), when its read began (8), when it expires (8), then the row, or nothing for a
--          tombstone; integers are big endian, times are Unix milliseconds
-- ARGV[2]  milliseconds for which the key is kept, counted from now: longer than any older version can live, so that
--          the entry, expired or not, goes on refusing those
--
-- Returns 1 when it was remembered and 0 when not. Running it again, at once or long afterwards, changes nothing: an
-- entry never replaces itself, a newer version, or a later reading of the same version.

local HEADER = 20

local entry = ARGV[1]
local held = redis.call('GETRANGE', KEYS[1], 0, HEADER)  -- one byte more than the header tells a row from a tombstone
if #held >= HEADER then
  local version, _, expires = struct.unpack('>I4I8I8', entry)
  local held_version, _, held_expires = struct.unpack('>I4I8I8', held)
  if version < held_version then
    return 0
  end
  if version == held_version then
    local is_row, held_is_row = #entry > HEADER, #held > HEADER
    if not is_row or (held_is_row and expires <= held_expires) then
      return 0
    end
  end
end
redis.call('SET', KEYS[1], entry, 'PX', ARGV[2])
return 1
