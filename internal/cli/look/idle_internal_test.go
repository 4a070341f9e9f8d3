package look

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestIdle: what is asked for longer than the time isn't idle, and is when the last request is over.
func TestIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var ended []time.Duration
		i := newIdle(time.Minute, func() { ended = append(ended, time.Since(began)) })
		defer i.stop()
		h := i.around(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			took, err := time.ParseDuration(r.URL.Path[1:])
			if err != nil {
				t.Error(err)
			}
			time.Sleep(took)
		}))
		ask := func(took string) {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/"+took, nil))
		}
		go ask("150s")
		time.Sleep(30 * time.Second)
		ask("1s")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if want := []time.Duration{150*time.Second + time.Minute}; !slices.Equal(ended, want) {
			t.Errorf("ended after %s, not %s", ended, want)
		}
	})
}
