package demo

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The load: enough that a leak shows in seconds, little enough for a busy laptop.
const (
	visitorCount = 4
	pace         = 10 * time.Millisecond // between the requests of one visitor
	orderLines   = 40
)

// visitors browse the shop and order until they are stopped.
type visitors struct {
	answered, failed atomic.Int64

	cancel context.CancelFunc
	done   sync.WaitGroup
}

func visit(url string) *visitors {
	ctx, cancel := context.WithCancel(context.Background())
	v := &visitors{cancel: cancel}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: visitorCount}}
	for id := range visitorCount {
		v.done.Go(func() { v.stroll(ctx, client, url, id) })
	}
	return v
}

func (v *visitors) stop() {
	v.cancel()
	v.done.Wait()
}

// stroll is one visitor: three pages, then an order with a request id of its own.
func (v *visitors) stroll(ctx context.Context, client *http.Client, url string, id int) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		var err error
		if n%4 == 3 {
			err = order(ctx, client, url, id, n)
		} else {
			err = browse(ctx, client, url, id, n)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			v.failed.Add(1)
		default:
			v.answered.Add(1)
		}
	}
}

func browse(ctx context.Context, client *http.Client, url string, id, n int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/item/%d", url, n*7+id), nil)
	if err != nil {
		return err
	}
	return send(client, req, id, n)
}

func order(ctx context.Context, client *http.Client, url string, id, n int) error {
	var lines []string
	for i := range orderLines {
		lines = append(lines, fmt.Sprintf(`{"sku":%d,"count":%d}`, n+i, 1+i%3))
	}
	body := strings.NewReader("[" + strings.Join(lines, ",") + "]")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/order", body)
	if err != nil {
		return err
	}
	req.Header.Set("X-Request-Id", fmt.Sprintf("%04d-%08d", id, n))
	return send(client, req, id, n)
}

func send(client *http.Client, req *http.Request, id, n int) error {
	req.Header.Set("X-Visitor", fmt.Sprintf("visitor-%d-%d", id, n/20))
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		return fmt.Errorf("shop: %s", resp.Status)
	}
	return nil
}
