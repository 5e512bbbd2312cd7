/* Included before every file of QuickJS (see build.sh).
 *
 * QuickJS turns its stack check off where it sees __wasi__, and a deep recursion would end in a trap. So the C
 * library's headers are read as they must be, and then the name is taken away. With it QuickJS would also lose
 * malloc_usable_size, by which it decides when to collect garbage; __GLIBC__ is one of the names under which it
 * looks for that function, and means nothing else in its source.
 */
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <fenv.h>
#include <inttypes.h>
#include <limits.h>
#include <malloc.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#undef __wasi__
#define __GLIBC__ 1

/* Calls of JavaScript functions use both stacks alike. Recursion in C (the parser, JSON, proxies of proxies) keeps
 * little on the shadow stack, where QuickJS looks, and much on the machine stack, where it cannot: it must stop
 * earlier. Its checks ask for 0 or 1000 bytes of room, those of calls for what the call needs; so here the former
 * ask for all but half a MiB of the 3 MiB that src/stack.rs allows. (Pasting makes a name of the first word of the second argument;
 * the other names are those with which QuickJS calls, and defines, the function.)
 */
#define ROOM_FOR_C (5 * 512 * 1024)
#define ROOM_0 ROOM_FOR_C
#define ROOM_1000 ROOM_FOR_C
#define ROOM_sizeof sizeof
#define ROOM_size_t size_t
#define ROOM_alloca_size alloca_size
#define ROOM_stack_size stack_size
#define js_check_stack_overflow(runtime, room) js_check_stack_overflow(runtime, ROOM_##room)
