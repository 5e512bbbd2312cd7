// Variables live between executions, and may be declared again.
//%%
let counter = 1;
const limit = 10;
var plain = 'v';
function add(a, b) { return a + b; }
class Point { constructor(x) { this.x = x; } }
const later = () => counter;
//%%
counter += 1;
[counter, limit, plain, add(2, 3), new Point(4)]
//%%
let counter = 100;
const limit = 'again';
class Point { constructor(y) { this.y = y; } }
function add(a, b) { return `${a}${b}`; }
[later(), limit, new Point(5), add(2, 3)]
//%%
// The rules inside of one execution still hold.
limit = 3;
//%%
let twice = 1; let twice = 2;
//%%
// A binding whose initialiser failed is not lost for ever.
let broken = (() => { throw new Error('no value'); })();
//%%
broken
//%%
let broken = 'mended'; broken
//%%
const { a, b: [c, ...d], ...rest } = { a: 1, b: [2, 3, 4], e: 5 };
({ a, c, d, rest })
//%%
let { a, c } = { a: 'x', c: 'y' }; let count;
[a, c, d, count]
//%%
count = 5;
//%%
let count; count
//%%
sloppy = 'global'; delete globalThis.sloppy; typeof sloppy
//%%
'use strict';
undeclared = 1;
//%%
function counter() { return 'a function now'; }
counter()
