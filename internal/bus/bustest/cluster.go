// Package bustest runs NATS clusters for tests, whose members can be stopped, and cut
// off from each other and from their clients.
package bustest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/slipcover/slipcover/internal/testenv"
)

// Cluster is NATS servers with JetStream in this process. Clients reach each through a
// Forwarder, and so do the members each other.
type Cluster struct {
	Servers []*server.Server // nil: stopped

	t       testenv.TB
	opts    []*server.Options
	clients []*Forwarder
	routes  [][]*Forwarder // from one member to another
}

// Start starts n members, that look after connections as docs/nats.md says. set completes the options of each, which have names, addresses
// and a folder.
func Start(t testenv.TB, n int, set func(i int, o *server.Options)) *Cluster {
	t.Helper()
	c := &Cluster{t: t, Servers: make([]*server.Server, n), routes: make([][]*Forwarder, n)}
	dir := t.TempDir()
	ports := FreePorts(t, 2*n)
	addr := func(p int) string { return fmt.Sprint("127.0.0.1:", p) }
	for i := range n {
		o := &server.Options{ServerName: fmt.Sprint("n", i), Host: "127.0.0.1", Port: ports[i], JetStream: true, NoLog: true, NoSigs: true, PingInterval: 10 * time.Second}
		o.StoreDir = filepath.Join(dir, o.ServerName)
		c.clients = append(c.clients, Forward(t, addr(o.Port)))
		o.ClientAdvertise = c.clients[i].Addr
		if n > 1 {
			// Members tell each other of the others' addresses: of one where nobody is,
			// so that all ways lead through the forwarders.
			o.Cluster = server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: ports[n+i], Advertise: addr(1), PingInterval: 5 * time.Second}
			c.routes[i] = make([]*Forwarder, n)
			for j := range n {
				if j != i {
					c.routes[i][j] = Forward(t, addr(ports[n+j]))
					o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: c.routes[i][j].Addr})
				}
			}
		}
		set(i, o)
		c.opts = append(c.opts, o)
	}
	for i := range n {
		c.Start(i)
	}
	t.Cleanup(func() {
		for i := range n {
			c.Stop(i)
		}
	})
	return c
}

// FreePorts returns ports that nobody listens on now, below those that outgoing
// connections take.
func FreePorts(t testenv.TB, n int) (ports []int) {
	t.Helper()
	for len(ports) < n {
		p := 15000 + rand.IntN(15000)
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", p))
		if err == nil && !slices.Contains(ports, p) {
			ports = append(ports, p)
			defer func() { _ = l.Close() }()
		}
	}
	return ports
}

// Start starts a member that is stopped.
func (c *Cluster) Start(i int) {
	c.t.Helper()
	s, err := server.NewServer(c.opts[i].Clone())
	if err != nil {
		c.t.Fatalf("a NATS server: %v", err)
	}
	go s.Start()
	if !s.ReadyForConnections(time.Minute) {
		c.t.Fatalf("a NATS server doesn't start")
	}
	c.Servers[i] = s
}

// Stop takes a member away.
func (c *Cluster) Stop(i int) {
	if s := c.Servers[i]; s != nil {
		s.Shutdown()
		s.WaitForShutdown()
		c.Servers[i] = nil
	}
}

// Routes sets the ways between a member and all others.
func (c *Cluster) Routes(i int, s State) {
	for j := range c.routes {
		if j != i {
			c.routes[i][j].Set(s)
			c.routes[j][i].Set(s)
		}
	}
}

// Clients sets the ways of clients to a member.
func (c *Cluster) Clients(i int, s State) { c.clients[i].Set(s) }

// URL has the addresses of the members in this order, all of them if none is named.
func (c *Cluster) URL(members ...int) string {
	if len(members) == 0 {
		for i := range c.opts {
			members = append(members, i)
		}
	}
	var urls []string
	for _, i := range members {
		u := url.URL{Scheme: "nats", Host: c.clients[i].Addr}
		if o := c.opts[i]; o.Username != "" {
			u.User = url.UserPassword(o.Username, o.Password)
		}
		urls = append(urls, u.String())
	}
	return strings.Join(urls, ",")
}
