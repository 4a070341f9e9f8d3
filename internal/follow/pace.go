package follow

import "time"

// pace says how often to look. It is guarded by Follower.mu.
type pace struct {
	cpu, took time.Duration // of the last look
	ended     time.Time     // when it ended
	floor     time.Time     // when the last look at all ended
}

// pause is the shortest time between two looks: 50 times the processor time of one, so
// that looking costs 2 % of a core at most, and 4 times what it took, so that most of
// the time nobody waits for the server of a network file system.
func (p *pace) pause() time.Duration { return max(time.Second, 50*p.cpu, 4*p.took) }

// every is the time between looks.
func (p *pace) every(poll time.Duration, polling bool) time.Duration {
	if polling {
		return min(p.pause(), max(poll, p.pause()))
	}
	return max(poll, p.pause())
}

// due says when all folders are to be looked at: at the floor, or as soon as may be.
func (p *pace) due(poll time.Duration, soon bool) time.Time {
	if soon {
		return p.ended.Add(p.pause())
	}
	return p.floor.Add(max(poll, p.pause()))
}
