package report

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// browser is a headless Chromium under chromedriver, spoken to by the W3C WebDriver protocol over loopback.
type browser struct {
	t       testing.TB
	session string // URL of the session
}

// startBrowser starts one that ends with the test. On a machine without Chromium the test is skipped, except in CI.
func startBrowser(t testing.TB, width, height int) *browser {
	t.Helper()
	driver := lookPath(t, "chromedriver")
	chromium := lookPath(t, "chromium", "chromium-browser", "google-chrome")
	profile := t.TempDir() // before anything that is to end before it is removed
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, driver, "--port=0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed
	})
	b := &browser{t: t, session: "http://127.0.0.1:" + driverPort(t, out) + "/session"}
	reply := b.call(http.MethodPost, "", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"goog:loggingPrefs": map[string]string{"browser": "ALL"},
		"goog:chromeOptions": map[string]any{"binary": chromium, "args": []string{
			"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
			"--disable-background-networking",
			"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
			"--user-data-dir=" + profile,
			fmt.Sprintf("--window-size=%d,%d", width, height),
		}},
	}}})
	var created struct{ SessionID string }
	b.decode(reply, &created)
	b.session += "/" + created.SessionID
	t.Cleanup(func() { b.call(http.MethodDelete, "", nil) })
	return b
}

// lookPath returns the first of the programs that is there.
func lookPath(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed, and in CI the flame graph must be tested: "+
			"apt-get install chromium chromium-driver", names[0])
	}
	t.Skipf("%s is not installed (apt-get install chromium chromium-driver)", names[0])
	return ""
}

// driverPort reads the port that chromedriver chose from what it says when it is ready.
func driverPort(t testing.TB, out io.Reader) string {
	t.Helper()
	started := regexp.MustCompile(`started successfully on port (\d+)`)
	var said []byte
	buffer := make([]byte, 4096)
	for {
		n, err := out.Read(buffer)
		said = append(said, buffer[:n]...)
		if m := started.FindSubmatch(said); m != nil {
			go func() { _, _ = io.Copy(io.Discard, out) }() // until it ends
			return string(m[1])
		}
		if err != nil {
			t.Fatalf("chromedriver did not start: %v\n%s", err, said)
		}
	}
}

// call does one command and returns its value. Any error ends the test.
func (b *browser) call(method, path string, body any) json.RawMessage {
	b.t.Helper()
	value, err := b.try(method, path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	return value
}

func (b *browser) try(method, path string, body any) (json.RawMessage, error) {
	var payload io.Reader
	if method == http.MethodPost {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		payload = bytes.NewReader(data)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, b.session+path, payload)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var reply struct{ Value json.RawMessage }
	if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %s", method, path, reply.Value)
	}
	return reply.Value, nil
}

func (b *browser) decode(value json.RawMessage, to any) {
	b.t.Helper()
	if err := json.Unmarshal(value, to); err != nil {
		b.t.Fatalf("%s: %v", value, err)
	}
}

// open shows a file and waits until its script has drawn it.
func (b *browser) open(file string) {
	b.t.Helper()
	path, err := filepath.Abs(file)
	if err != nil {
		b.t.Fatal(err)
	}
	b.call(http.MethodPost, "/url", map[string]any{"url": "file://" + path})
	var ready bool
	b.decode(b.call(http.MethodPost, "/execute/async", map[string]any{"args": []any{}, "script": `
		const done = arguments[0];
		const check = () => window.heaptap ? done(true)
			: document.getElementById('note').hidden ? requestAnimationFrame(check) : done(false);
		check();`}), &ready)
	if !ready {
		b.t.Fatal("the page says: " + b.text("#note"))
	}
}

// eval decodes the value of a JavaScript expression.
func (b *browser) eval(to any, expression string, args ...any) {
	b.t.Helper()
	if args == nil {
		args = []any{}
	}
	b.decode(b.call(http.MethodPost, "/execute/sync", map[string]any{"script": "return " + expression, "args": args}),
		to)
}

// text returns the text of the first element that the selector finds.
func (b *browser) text(selector string) (text string) {
	b.t.Helper()
	b.eval(&text, "document.querySelector(arguments[0]).textContent", selector)
	return text
}

// shown tells whether the element is visible.
func (b *browser) shown(selector string) (is bool) {
	b.t.Helper()
	b.eval(&is, "document.querySelector(arguments[0]).checkVisibility()", selector)
	return is
}

// clickOn clicks the middle of an element.
func (b *browser) clickOn(selector string) {
	b.t.Helper()
	var at struct{ X, Y float64 }
	b.eval(&at, "(r => ({x: r.x + r.width / 2, y: r.y + r.height / 2}))"+
		"(document.querySelector(arguments[0]).getBoundingClientRect())", selector)
	b.click(at.X, at.Y)
}

// point moves the mouse; click also presses its button.
func (b *browser) point(x, y float64) { b.t.Helper(); b.mouse(x, y, false) }

func (b *browser) click(x, y float64) { b.t.Helper(); b.mouse(x, y, true) }

func (b *browser) mouse(x, y float64, press bool) {
	b.t.Helper()
	actions := []any{map[string]any{"type": "pointerMove", "x": int(x), "y": int(y), "duration": 0}}
	if press {
		actions = append(actions, map[string]any{"type": "pointerDown", "button": 0},
			map[string]any{"type": "pointerUp", "button": 0})
	}
	b.call(http.MethodPost, "/actions", map[string]any{"actions": []any{map[string]any{
		"type": "pointer", "id": "mouse", "parameters": map[string]string{"pointerType": "mouse"}, "actions": actions,
	}}})
	b.settle()
}

// Code points by which WebDriver names keys without a character.
const (
	keyBackspace = "\uE003"
	keyEnter     = "\uE007"
	keyEscape    = "\uE00C"
	keyLeft      = "\uE012"
	keyUp        = "\uE013"
	keyRight     = "\uE014"
	keyDown      = "\uE015"
)

// press types keys one after the other, wherever the focus is.
func (b *browser) press(keys string) {
	b.t.Helper()
	var actions []any
	for _, key := range keys {
		actions = append(actions, map[string]any{"type": "keyDown", "value": string(key)},
			map[string]any{"type": "keyUp", "value": string(key)})
	}
	b.call(http.MethodPost, "/actions", map[string]any{"actions": []any{map[string]any{"type": "key", "id": "keyboard",
		"actions": actions}}})
	b.settle()
}

// settle waits until the page has painted what it was told.
func (b *browser) settle() {
	b.t.Helper()
	b.call(http.MethodPost, "/execute/async", map[string]any{
		"args":   []any{},
		"script": "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))",
	})
}

// complaints are the browser's warnings and errors since the last call.
func (b *browser) complaints() []string {
	b.t.Helper()
	var log []struct{ Level, Message string }
	b.decode(b.call(http.MethodPost, "/se/log", map[string]any{"type": "browser"}), &log)
	var list []string
	for _, entry := range log {
		list = append(list, entry.Level+": "+entry.Message)
	}
	return list
}

// devtools sends a command of Chromium's own protocol.
func (b *browser) devtools(command string, params any) {
	b.t.Helper()
	b.call(http.MethodPost, "/goog/cdp/execute", map[string]any{"cmd": command, "params": params})
	b.settle()
}

// screenshot returns the window as PNG, pdf the page as printed.
func (b *browser) screenshot() []byte {
	b.t.Helper()
	return b.base64(http.MethodGet, "/screenshot", nil)
}

func (b *browser) pdf() []byte {
	b.t.Helper()
	return b.base64(http.MethodPost, "/print", map[string]any{"orientation": "landscape", "background": false})
}

func (b *browser) base64(method, path string, body any) []byte {
	b.t.Helper()
	var text string
	b.decode(b.call(method, path, body), &text)
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		b.t.Fatal(err)
	}
	return data
}
