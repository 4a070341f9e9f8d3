//go:build !race

package cli_test

// raceDetector tells whether the tests run under it, some twenty times slower.
const raceDetector = false
