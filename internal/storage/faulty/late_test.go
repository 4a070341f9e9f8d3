package faulty_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/storage/storagetest"
)

func TestContractOfLateWithoutLateness(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return faulty.NewLate(mem.New(), 1, 0) })
}

// What List shows goes from the old state to the new one, key by key, within the
// window and not before; Get and Stat are current all the time.
func TestLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, window = 40, time.Minute
		ctx := t.Context()
		s := faulty.NewLate(mem.New(), 7, window)
		key := func(i int) storage.Key { return storage.Key(fmt.Sprintf("d/%02d", i)) }
		sizes := func() map[storage.Key]int64 {
			shown, last := map[storage.Key]int64{}, ""
			err := s.List(ctx, "d/", func(info storage.Info) error {
				if last >= string(info.Key) {
					t.Errorf("%s behind %s", info.Key, last)
				}
				last, shown[info.Key] = string(info.Key), info.Size
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return shown
		}
		// Three changes each, after each of which the first is still to show up for some.
		for i := range n {
			for _, text := range []string{"1", "22", ""} {
				var err error
				if text == "" && i%2 == 0 {
					err = s.Delete(ctx, key(i))
				} else if text != "" {
					err = put(ctx, s, key(i), text)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if _, err := get(ctx, s, key(i)); (err != nil) != (i%2 == 0) {
				t.Errorf("get of %s: %v", key(i), err)
			}
		}
		rank := map[int64]int{0: 0, 1: 1, 2: 2} // of a key: not there, first, second put
		before, mid := map[storage.Key]int{}, 0
		for range 60 {
			shown := sizes()
			for i := range n {
				now := rank[shown[key(i)]]
				if now == 0 && before[key(i)] > 0 { // the delete shows up
					now = 3
				}
				if now < before[key(i)] && before[key(i)] != 3 {
					t.Errorf("%s went back from state %d to %d", key(i), before[key(i)], now)
				}
				before[key(i)] = max(before[key(i)], now)
			}
			if len(shown) != n/2 {
				mid++
			}
			time.Sleep(window / 60)
		}
		if mid < 10 {
			t.Errorf("of 60 listings only %d were late", mid)
		}
		for i := range n {
			if got, want := sizes()[key(i)], int64(2*(i%2)); got != want {
				t.Errorf("after the window %s shows with %d bytes, want %d", key(i), got, want)
			}
		}
	})
}

// Some deleted objects still show, some new ones don't, and who asks for one by its
// key learns the truth. The seed decides, nothing else.
func TestLateSeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := func(seed uint64, backwards bool) string {
			s := faulty.NewLate(mem.New(), seed, time.Hour)
			for i := range 20 {
				if backwards {
					i = 19 - i
				}
				if err := put(t.Context(), s, storage.Key(fmt.Sprintf("k%02d", i)), "x"); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Hour / 2)
			return keys(t, s)
		}
		one := state(1, false)
		if again := state(1, true); again != one {
			t.Errorf("the same seed shows\n%s\nand\n%s", one, again)
		}
		if other := state(2, false); other == one || strings.Count(one, "k") < 5 || strings.Count(one, "k") > 19 {
			t.Errorf("two seeds show\n%s\nand\n%s", one, other)
		}
	})
}
