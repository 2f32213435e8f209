package pytarget

import (
	"crypto/sha256"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// challenge computes what challenge(seed) in python/target.py must give, by other means.
func challenge(seed uint64) []string {
	values := make([]uint64, 2000)
	for i := range values {
		seed = seed*6364136223846793005 + 1442695040888963407
		values[i] = seed
	}

	ordered := make([]string, len(values))
	for i, v := range slices.Sorted(slices.Values(values)) {
		ordered[i] = strconv.FormatUint(v, 10)
	}
	digest := sha256.Sum256([]byte(strings.Join(ordered, ",")))

	product := big.NewInt(1)
	for _, v := range values[:200] {
		product.Mul(product, new(big.Int).SetUint64(v|1))
	}
	modulus := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 521), big.NewInt(1))
	power := new(big.Int).Exp(big.NewInt(3), product, modulus)

	groups := map[uint64]int{}
	for _, v := range values {
		groups[v>>55]++
	}
	kept := 0
	for key, size := range groups {
		if size%2 == 0 {
			kept += size * int(key)
		}
	}

	hex := make([]string, len(values))
	for i, v := range values {
		hex[i] = strconv.FormatUint(v, 16)
	}
	words := regexp.MustCompile(`[0-9]+[a-f]{2}`).FindAllString(strings.Join(hex, " "), -1)

	var alternating uint64
	for _, v := range slices.Backward(values) {
		alternating = v - alternating
	}
	return []string{
		fmt.Sprintf("%x", digest), power.String(), strconv.Itoa(kept),
		fmt.Sprintf("%d:%s", len(words), words[len(words)-1]), strconv.FormatUint(alternating, 10),
	}
}
