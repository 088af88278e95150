(function () {
  var root = document.documentElement;
  var choices = document.querySelectorAll('input[name="language"]');
  function follow() {
    root.lang = document.getElementById("language-zh").checked ? "zh-Hans" : "en";
  }
  if (/^zh\b/i.test(navigator.language || "")) {
    document.getElementById("language-zh").checked = true;
  }
  choices.forEach(function (choice) { choice.addEventListener("change", follow); });
  follow();
})();
