// Errors: name, message, place. Our own frames are left out.
//%%
function outer() { inner(); }
function inner() { throw new TypeError('boom'); }
outer();
//%%
null.property
//%%
missingName
//%%
const broken = {;
//%%
line = 1;
  let 2x = 3;
//%%
throw 'a string'
//%%
throw { code: 5 }
//%%
throw undefined
//%%
class CustomError extends Error { constructor(m) { super(m); this.name = 'CustomError'; this.detail = 1; } }
throw new CustomError('mine');
//%%
class SubError extends RangeError {}
throw new SubError('sub');
//%%
throw new Error('outside', { cause: new Error('inside') });
//%%
Promise.reject(new Error('unhandled'));
await new Promise((resolve) => setTimeout(resolve, 50));
console.log('not reached');
//%%
setTimeout(() => { throw new Error('in a timer'); }, 1);
setTimeout(() => console.log('not reached'), 5);
//%%
queueMicrotask(() => { throw new Error('in a microtask'); });
//%%
process.nextTick(() => { throw new Error('in a tick'); });
//%%
async function fails() { await null; throw new Error('async'); }
await fails();
//%%
const late = Promise.reject(new Error('handled later'));
late.catch((error) => console.log('caught', error.message));
//%%
[1, 2].map((x) => { if (x === 2) throw new RangeError('in a callback'); });
//%%
await new Promise(() => {});
//%%
JSON.parse('{"a": ')
//%%
throw Object.create(null)
//%%
throw { get message() { throw 1; }, toString() { throw 2; } }
//%%
const odd = new Error('x'); Object.defineProperty(odd, 'message', { get() { throw 1; } });
Object.defineProperty(odd, 'stack', { get() { throw 1; } });
throw odd;
//%%
new AggregateError([new Error('one')], 'several')
