// Stopped from outside: the error's name says why, state is kept, nothing runs on.
//%%
let kept = 'kept'; var reached = 0;
//%% { timeout_ms = 100 }
setTimeout(() => console.log('never'), 5000);
Promise.resolve().then(() => console.log('a microtask that waits behind the loop'));
process.nextTick(() => console.log('never'));
for (;;) reached += 1;
//%%
console.log(kept, reached > 0);
//%% { timeout_ms = 100 }
try { for (;;); } catch { console.log('not catchable'); } finally { console.log('nor finally'); }
//%% { timeout_ms = 100 }
await new Promise((resolve) => setTimeout(resolve, 60000));
//%% { timeout_ms = 100 }
setInterval(() => {}, 10);
//%% { timeout_ms = 100 }
(async () => { for (;;) await null; })();
//%% { timeout_ms = 100 }
[1].forEach(function spin() { for (;;); });
//%% { timeout_ms = 100 }
({ [Symbol.for('nodejs.util.inspect.custom')]() { for (;;); } })
//%% { timeout_ms = 100 }
function* generator() { yield 1; for (;;); }
for (const x of generator());
//%% { timeout_ms = 100 }
console.log('printed before'); while (true) {}
//%%
kept
