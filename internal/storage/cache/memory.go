package cache

import (
	"container/list"
	"sync"
)

// memory keeps blocks in memory.
type memory struct {
	size int64

	mu    sync.Mutex
	used  int64                   // guarded by mu, like what follows
	items map[block]*list.Element // of order
	order *list.List              // of memoryItem, the one used last in front
}

type memoryItem struct {
	id block
	b  []byte
}

func newMemory(size int64) *memory {
	return &memory{size: size, items: map[block]*list.Element{}, order: list.New()}
}

func (m *memory) get(id block) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.items[id]
	if e == nil {
		return nil
	}
	m.order.MoveToFront(e)
	return e.Value.(memoryItem).b
}

func (m *memory) has(id block) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.items[id]; e != nil {
		return len(e.Value.(memoryItem).b)
	}
	return 0
}

func (m *memory) put(id block, b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.items[id] != nil {
		return
	}
	m.items[id] = m.order.PushFront(memoryItem{id, b})
	m.used += int64(cap(b))
	for m.used > m.size {
		last := m.order.Remove(m.order.Back()).(memoryItem)
		delete(m.items, last.id)
		m.used -= int64(cap(last.b))
	}
}
