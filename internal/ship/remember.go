package ship

import "github.com/slipcover/slipcover/internal/capture"

// What is remembered of databases for the replays of their compactions is read beside the ticks, one
// database at a time: the first time all of it is read.

// remembering is a database that is being read.
type remembering struct {
	name  capture.Name
	known *capture.Known
	out   string
	done  chan struct{}
}

// remember begins with the next database of which something is to be remembered, and takes over what
// was.
func (s *Shipper) remember() {
	if r := s.reading; r != nil {
		select {
		case <-r.done:
		default:
			return
		}
		s.reading = nil
		if is := s.files[r.name]; is != nil && is.File.Generation == r.known.File.Generation && r.out != "" {
			is.Local.Known = r.out
		}
	}
	for nm := range s.unread {
		delete(s.unread, nm)
		is := s.files[nm]
		e, ok := s.o.Node.Entry(nm.Path)
		taker := s.takers.Taker(nil)
		if is == nil || !ok || !taker.Unremembered(is) {
			continue
		}
		known := *is
		r := &remembering{name: nm, known: &known, done: make(chan struct{})}
		s.reading = r
		s.work.Go(func() {
			defer close(r.done)
			var err error
			if r.out, err = taker.Remember(s.working, e, r.known); err != nil {
				s.log.Debug("nothing is remembered of a database: if it is compacted, all of it is shipped", "path", nm.Path, "err", err)
			}
		})
		return
	}
}
