# Becomes the one program that pid 1 of its cell names. Fields as for the shell; instead of `code` the number of
# arguments and the arguments.
IFS= read -r -d '' -u 3 directory && IFS= read -r -d '' -u 3 input && IFS= read -r -d '' -u 3 count || exit 127
while ((count-- > 0)) && IFS= read -r -d '' -u 3 pair; do export "$pair"; done
arguments=()
IFS= read -r -d '' -u 3 count
while ((count-- > 0)) && IFS= read -r -d '' -u 3 argument; do arguments+=("$argument"); done
[[ -z $directory ]] || cd -- "$directory" || exit 127
[[ -t 0 ]] || exec < "${input:-/dev/null}"
printf 'B 0\n' >&4
exec -- "${arguments[@]}" 3<&- 4>&-
