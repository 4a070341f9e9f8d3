// An agent that stands still: the overview says it and what it means, and takes it back when it is there again.
require('./lib')(async s => {
  await s.signIn();
  await s.heading(/1 of 2 instances is safe/);
  await s.ask('halt-agent');
  // The server takes an agent for silent that it hasn't heard for 90 s.
  await s.page.getByRole('heading', {name: /None of 2 instances is safe/}).waitFor({timeout: 90000 + s.patience});
  await s.says(/^shop: its agent is silent|^shop: shipping is/);
  await s.look();
  await s.ask('resume-agent');
  await s.heading(/1 of 2 instances is safe/);
});
