package bustest

import (
	"net"
	"sync"

	"github.com/slipcover/slipcover/internal/testenv"
)

// State is what a Forwarder does with connections.
type State int

const (
	// Open passes all on.
	Open State = iota
	// Cut breaks the connections there are and each new one, as a reset does.
	Cut
	// Held keeps connections and passes nothing on, as a network does that drops
	// packets. What was sent meanwhile arrives when it is Open again.
	Held
)

// String is the state's name, for logs.
func (s State) String() string { return [...]string{"open", "cut", "held"}[s] }

// Forwarder stands between clients and a server on loopback.
type Forwarder struct {
	Addr string // host:port that clients connect to

	to      string
	mu      sync.Mutex
	changed *sync.Cond            // with mu
	state   State                 // guarded by mu
	conns   map[net.Conn]struct{} // guarded by mu
}

// Forward starts a Forwarder to a host:port, where nobody need listen yet.
func Forward(t testenv.TB, to string) *Forwarder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	f := &Forwarder{Addr: l.Addr().String(), to: to, conns: map[net.Conn]struct{}{}}
	f.changed = sync.NewCond(&f.mu)
	t.Cleanup(func() {
		_ = l.Close()
		f.Set(Cut)
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f.serve(c)
		}
	}()
	return f
}

// Set changes the state, of the connections there are too.
func (f *Forwarder) Set(s State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = s
	if s == Cut {
		for c := range f.conns {
			_ = c.Close()
		}
		clear(f.conns)
	}
	f.changed.Broadcast()
}

func (f *Forwarder) serve(in net.Conn) {
	defer end(in)
	if !f.keep(in) {
		return
	}
	defer f.forget(in)
	if !f.pass(in) {
		return
	}
	out, err := net.Dial("tcp", f.to)
	if err != nil {
		return
	}
	defer end(out)
	if !f.keep(out) {
		return
	}
	defer f.forget(out)
	back := make(chan struct{})
	go func() {
		defer close(back)
		f.copy(in, out)
	}()
	f.copy(out, in)
	<-back
}

// copy passes on what src sends, until one of the two ends.
func (f *Forwarder) copy(dst, src net.Conn) {
	defer end(dst)
	defer end(src)
	b := make([]byte, 32<<10)
	for {
		n, err := src.Read(b)
		if !f.pass(src) {
			return
		}
		if n > 0 {
			if _, err := dst.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pass waits while connections are held, and says whether c is still one.
func (f *Forwarder) pass(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.state == Held {
		f.changed.Wait()
	}
	_, ok := f.conns[c]
	return ok
}

func (f *Forwarder) keep(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != Cut {
		f.conns[c] = struct{}{}
	}
	return f.state != Cut
}

func (f *Forwarder) forget(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, c)
}

func end(c net.Conn) { _ = c.Close() }
