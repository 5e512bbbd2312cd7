//%%
const order = [];
setTimeout(() => order.push('timeout 2'), 2); setTimeout(() => order.push('timeout 0'), 0);
setImmediate(() => order.push('immediate')); process.nextTick(() => order.push('tick'));
Promise.resolve().then(() => order.push('promise')); queueMicrotask(() => order.push('microtask'));
order.push('sync'); setTimeout(() => console.log(order.filter((x) => !/immediate|timeout 0/.test(x)).join(', ')), 10);
//%%
let n = 0; const interval = setInterval((a, b) => { n += 1; if (n === 3) { clearInterval(interval); console.log(n, a, b); } }, 1, 'x', 'y');
const cancelled = setTimeout(() => console.log('never'), 1); clearTimeout(cancelled);
clearTimeout(undefined); clearTimeout(12345); clearTimeout({});
//%%
const keep = setTimeout(() => console.log('never: unreferenced'), 10000); keep.unref();
console.log(keep.hasRef(), typeof +keep, Object.prototype.toString.call(keep));
//%%
const { setTimeout: wait } = require('timers/promises'); const began = performance.now();
console.log(await wait(20, 'value'), performance.now() - began >= 19);
//%%
setTimeout(() => { Promise.resolve().then(() => console.log('between')); }, 1); setTimeout(() => console.log('after'), 1);
//%%
const controller = new AbortController(); setTimeout(() => controller.abort(), 5);
await wait(10000, null, { signal: controller.signal }).catch((error) => console.log(error.name, controller.signal.aborted));
//%%
try { setTimeout('code', 1); } catch (error) { console.log(error.code); }
//%%
// An execution that fails takes its timers with it.
setTimeout(() => console.log('never'), 1); throw new Error('first');
//%%
await wait(20); 'quiet'
