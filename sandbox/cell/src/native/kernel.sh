# Runs what pid 1 of its cell sends, in one shell that keeps its state.
#
# Descriptor 3: for each execution the fields `directory`, `input`, the number of variables, `NAME=value` …, `code`, each
# ended by a zero byte; an empty directory stays where the shell is, an empty input is none. Descriptor 4: `B 0` when the
# input is open, `D <length>` and JSON at the end. No program that is started here has either of them.
#
# The code is read like a script's, so that what it declares is the shell's own, and an interrupt ends it alone. From a
# loop of nothing but builtins an interrupt may find no way out; pid 1 then ends the shell.

trap 'return 130' INT

while IFS= read -r -d '' -u 3 __directory && IFS= read -r -d '' -u 3 __input && IFS= read -r -d '' -u 3 __count; do
    __restore=()
    while ((__count-- > 0)) && IFS= read -r -d '' -u 3 __pair; do
        __name=${__pair%%=*}
        if [[ -v $__name ]]; then
            __restore+=("export ${__name}=$(printf %q "${!__name}")")
        else
            __restore+=("unset $__name")
        fi
        export "$__pair"
    done
    IFS= read -r -d '' -u 3 __code
    __before=$PWD
    if [[ -n $__directory ]] && ! cd -- "$__directory"; then
        __status=1
        printf 'B 0\n' >&4
    else
        exec < "${__input:-/dev/null}"
        printf 'B 0\n' >&4
        source /dev/fd/5 5<<< "$__code" 3<&- 4>&-
        __status=$?
        exec < /dev/null
    fi
    [[ -z $__directory ]] || cd -- "$__before"
    for __pair in "${__restore[@]}"; do eval "$__pair"; done
    printf -v __end '{"exit_code":%d}' "$__status"
    printf 'D %d\n%s' "${#__end}" "$__end" >&4
done
