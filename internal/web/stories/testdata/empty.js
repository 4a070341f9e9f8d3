// Empty state: a new server says what to do first, and it works.
require('./lib')(async s => {
  await s.signIn();
  await s.heading(/Nothing is backed up yet/);
  await s.look();
  await s.shot('empty');
});
